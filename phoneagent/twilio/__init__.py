"""Adapters of Twilio: signatures, TwiML, the REST API, the media socket. The rules of a call are in `bridge`."""

API_URL = "https://api.twilio.com"

VOICE_PATH = "/twilio/voice"
AFTER_PATH = "/twilio/after"
STATUS_PATH = "/twilio/status"
PARTY_PATH = "/twilio/party"
AMD_PATH = "/twilio/amd"
MEDIA_PATH = "/twilio/media/"
"""Where an app answers Twilio's media sockets; see `webhooks`."""

BROWSER_MEDIA_PATH = "/console/phone/media/"
"""Where a call from the browser opens its media socket. The token is enough there: a browser signs nothing."""
