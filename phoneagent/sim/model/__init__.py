"""A Realtime server: sessions, voice activity detection, responses, tools and faults, as strict as the real one.

It shares no codec with the product: a shared mistake would cancel out.
"""
