"""Offline simulators, for demonstrations and your own tests: a Twilio with a caller, its REST API, a Realtime server.

They are strict: they refuse the same mistakes as the real services, in their words, and record each as a violation.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phoneagent.sim.hosting import serving
    from phoneagent.sim.model.helicone import Helicone
    from phoneagent.sim.model.script import Script
    from phoneagent.sim.model.server import Model
    from phoneagent.sim.model.setup import Faults
    from phoneagent.sim.twilio.line import Line
    from phoneagent.sim.twilio.menu import Menu
    from phoneagent.sim.twilio.phone import CallFailed, Phone
    from phoneagent.sim.twilio.quirks import Quirks
    from phoneagent.sim.twilio.rest import TwilioRest

__all__ = [
    "CallFailed",
    "Faults",
    "Helicone",
    "Line",
    "Menu",
    "Model",
    "Phone",
    "Quirks",
    "Script",
    "TwilioRest",
    "serving",
]

_HOMES = {
    "phoneagent.sim.hosting": "serving",
    "phoneagent.sim.model.helicone": "Helicone",
    "phoneagent.sim.model.script": "Script",
    "phoneagent.sim.model.server": "Model",
    "phoneagent.sim.model.setup": "Faults",
    "phoneagent.sim.twilio.line": "Line",
    "phoneagent.sim.twilio.menu": "Menu",
    "phoneagent.sim.twilio.phone": "CallFailed Phone",
    "phoneagent.sim.twilio.quirks": "Quirks",
    "phoneagent.sim.twilio.rest": "TwilioRest",
}
"""The names above by their modules. A name is imported when it is first used: speech files need no HTTP client."""


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names.split():
            return globals().setdefault(name, getattr(import_module(home), name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
