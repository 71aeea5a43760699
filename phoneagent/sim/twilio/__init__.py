"""A Twilio with a caller: webhooks, TwiML, media streams, callbacks and the REST API, as strict as the real one.

It shares no codec with the product: a shared mistake would cancel out.
"""
