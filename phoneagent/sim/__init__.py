"""The offline world, for demonstrations and for your own tests: a Twilio with a caller, and a Realtime server.

Both are strict: what the real service refuses, they refuse in its words and record as a violation.
"""

from .hosting import serving
from .line import Line
from .model import Faults, Model
from .phone import CallFailed, Phone
from .script import Script

__all__ = ["CallFailed", "Faults", "Line", "Model", "Phone", "Script", "serving"]
