"""Adapters of Twilio: signatures, TwiML, the REST API, the media socket. The rules of a call are in `bridge`."""

API_URL = "https://api.twilio.com"
