"""The public surface, name by name: what users import, request, type and migrate to. It changes only on purpose.

The lists are those of the package before it was moved into folders (commit 9cb746b).
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
from alembic.script import ScriptDirectory
from starlette.routing import Route, WebSocketRoute

import phoneagent
import phoneagent.events
import phoneagent.sim
import phoneagent.sim.speech
from phoneagent import Agent, PhoneApp, Settings, cli, settings, store

CLI_OPTIONS = Path(__file__).parent / "data" / "cli_options.txt"

NAMES = [
    "Agent",
    "AgentAnswered",
    "AgentPaused",
    "AgentResumed",
    "BargeIn",
    "Call",
    "CallControlled",
    "CallEnded",
    "CallHandedOver",
    "CallNotAnswered",
    "CallStarted",
    "CallTransferred",
    "CallerSpoke",
    "Clip",
    "ConfigurationError",
    "Cost",
    "DefinitionError",
    "DefinitionWarning",
    "Endpoint",
    "EndpointError",
    "EndpointRefused",
    "EndpointUnreachable",
    "Event",
    "Hearing",
    "Interruption",
    "KeyPressed",
    "Limits",
    "LocalMcpServer",
    "McpServer",
    "MessageAdded",
    "ModelEvent",
    "OutcomeFilled",
    "PhoneAgentError",
    "PhoneApp",
    "Price",
    "ProtocolError",
    "RateLimit",
    "RateLimitsUpdated",
    "Recording",
    "RecordingChanged",
    "RequestRefused",
    "Settings",
    "Silence",
    "SilenceFilled",
    "TelephonyError",
    "TokenProvider",
    "Tool",
    "ToolCalled",
    "ToolError",
    "ToolReturned",
    "Transcriber",
    "Trouble",
    "Turn",
    "TurnEnded",
    "Turns",
    "Usage",
    "UsageReported",
    "Voice",
    "hang_up",
    "keypad",
    "press_keys",
    "tool",
    "transfer",
]

EVENTS = [
    "AgentAnswered",
    "AgentPaused",
    "AgentResumed",
    "BargeIn",
    "CallControlled",
    "CallEnded",
    "CallHandedOver",
    "CallNotAnswered",
    "CallStarted",
    "CallTransferred",
    "CallerSpoke",
    "ControlOperation",
    "Cost",
    "EndedBy",
    "Event",
    "KeyPressed",
    "MessageAdded",
    "ModelEvent",
    "OutcomeFilled",
    "Pause",
    "RateLimit",
    "RateLimitsUpdated",
    "RecordingChanged",
    "RecordingStatus",
    "ResumeCause",
    "SilenceFilled",
    "ToolCalled",
    "ToolReturned",
    "TransferOutcome",
    "Trouble",
    "Turn",
    "TurnEnded",
    "UnansweredStatus",
    "Usage",
    "UsageReported",
]

SIM = [
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

SPEECH = [
    "ClipVoice",
    "Ear",
    "HibariVoice",
    "Murmur",
    "Voice",
    "agent_voice",
    "caller_voice",
    "default_ear",
    "normalised",
]

ROUTES = [
    "GET /healthz",
    "GET /metrics",
    "GET /readyz",
    "GET /twilio/voice",
    "POST /twilio/after",
    "POST /twilio/amd",
    "POST /twilio/party",
    "POST /twilio/status",
    "POST /twilio/voice",
    "WS /twilio/media/{token}",
]

ALEMBIC_HEADS = ["0017"]


@pytest.mark.parametrize("package", [phoneagent, phoneagent.sim], ids=lambda package: package.__name__)
def test_all_is_sorted_complete_and_documented(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert names == sorted(names)
    assert len(names) == len(set(names))
    for name in names:
        thing = getattr(package, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name} has no docstring"


def defined_in(module: ModuleType) -> set[str]:
    """Return the public classes, functions and type aliases that a module's own text defines; no constants."""
    assert module.__file__ is not None
    found = set()
    for node in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            found |= {target.id for target in targets if isinstance(target, ast.Name) and not target.id.isupper()}
    return {name for name in found if not name.startswith("_")} - {"log"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (phoneagent.__all__, NAMES),
        (phoneagent.sim.__all__, SIM),
        (defined_in(phoneagent.events), EVENTS),
        (defined_in(phoneagent.sim.speech), SPEECH),
    ],
    ids=["phoneagent", "phoneagent.sim", "phoneagent.events", "phoneagent.sim.speech"],
)
def test_public_names_stay(names: Any, expected: list[str]) -> None:
    assert sorted(names) == expected


def test_settings_are_loaded_as_before() -> None:
    (parameter,) = inspect.signature(settings.load).parameters.values()
    assert (parameter.name, parameter.default) == ("overrides", None)


def test_routes_stay() -> None:
    app = PhoneApp(Agent(instructions="x"), settings=Settings(insecure=True, realtime_url="ws://unused"))
    found = []
    for route in app.routes:
        assert isinstance(route, Route | WebSocketRoute)
        methods = {"WS"} if isinstance(route, WebSocketRoute) else (route.methods or set()) - {"HEAD"}
        found += [f"{method} {route.path}" for method in methods]
    assert sorted(found) == ROUTES
    assert not app.router.redirect_slashes  # Twilio signs the path as it is


def parameters_of(command: Any, path: str) -> Iterator[str]:
    """Yield a command's arguments and options, then those of its subcommands, each after the words before it."""
    for parameter in command.params:
        yield from (f"{path} {name}" for name in sorted([*parameter.opts, *parameter.secondary_opts]))
    for name, subcommand in sorted(getattr(command, "commands", {}).items()):
        yield f"{path} {name}"
        yield from parameters_of(subcommand, f"{path} {name}")


def test_commands_and_options_stay() -> None:
    command = typer.main.get_command(cli.app)
    assert list(parameters_of(command, "phoneagent")) == CLI_OPTIONS.read_text("utf-8").splitlines()


def test_the_newest_revision_of_the_database_stays() -> None:
    migrations = Path(store.__file__).parent / "migrations"
    assert ScriptDirectory(str(migrations)).get_heads() == ALEMBIC_HEADS
