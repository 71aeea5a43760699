"""The server's side: the Starlette app, and the parts that it is made of."""

from phoneagent.server.app import PhoneApp
from phoneagent.twilio import VOICE_PATH

__all__ = ["VOICE_PATH", "PhoneApp"]
