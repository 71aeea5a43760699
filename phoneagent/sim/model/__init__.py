"""A simulated Realtime server, as strict as the real one: sessions, voice activity, responses, tools and faults.

It shares no codec with the product: a shared mistake would cancel out.
"""
