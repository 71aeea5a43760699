"""Offline simulators, for demonstrations and your own tests: a Twilio with a caller, its REST API, a Realtime server.

They are strict: they refuse the same mistakes as the real services, in their words, and record each as a violation.
"""

from phoneagent.sim.hosting import serving
from phoneagent.sim.model.helicone import Helicone
from phoneagent.sim.model.script import Script
from phoneagent.sim.model.server import Model
from phoneagent.sim.model.setup import Faults
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.phone import CallFailed, Phone
from phoneagent.sim.twilio.quirks import Quirks
from phoneagent.sim.twilio.rest import TwilioRest

__all__ = ["CallFailed", "Faults", "Helicone", "Line", "Model", "Phone", "Quirks", "Script", "TwilioRest", "serving"]
