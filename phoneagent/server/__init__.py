"""The server side: the Starlette app and its parts."""

from phoneagent.server.app import PhoneApp
from phoneagent.twilio import VOICE_PATH

__all__ = ["VOICE_PATH", "PhoneApp"]
