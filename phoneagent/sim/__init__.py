"""The offline world, for demonstrations and your own tests: a Twilio with a caller, its REST API, a Realtime server.

They are strict: what the real service refuses, they refuse in its words and record as a violation.
"""

from .hosting import serving
from .line import Line
from .model import Faults, Model
from .model_helicone import Helicone
from .phone import CallFailed, Phone
from .quirks import Quirks
from .rest import TwilioRest
from .script import Script

__all__ = ["CallFailed", "Faults", "Helicone", "Line", "Model", "Phone", "Quirks", "Script", "TwilioRest", "serving"]
