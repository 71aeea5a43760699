"""`phoneagent sim model`: an offline Realtime server for any Realtime client."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from phoneagent.billing.prices import SIMULATED
from phoneagent.cli.brain import BrainModelOption, BrainOption, brain_of, wake
from phoneagent.cli.failures import fail, port_problem
from phoneagent.cli.stopping import stop_signal
from phoneagent.demo.report import counted, plain
from phoneagent.errors import DefinitionError
from phoneagent.sim.model.brain import Brain
from phoneagent.sim.model.script import Script
from phoneagent.sim.model.server import Model
from phoneagent.sim.model.service import ANY_BETA
from phoneagent.sim.model.session import SimulatedSession
from phoneagent.sim.model.setup import Faults
from phoneagent.sim.model.standins import STAND_INS
from phoneagent.sim.speech import Ear, agent_voice, default_ear


def model(
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1; 0 picks a free one.", min=0, max=65535)] = 9000,
    script: Annotated[Path | None, typer.Option(help="The script of the model, as a TOML file.")] = None,
    scripted: Annotated[bool, typer.Option(help="Do not listen: at each turn, say the script's next line.")] = False,
    brain: BrainOption = None,
    brain_model: BrainModelOption = None,
    api_key: Annotated[str | None, typer.Option(help="The key that clients must send.", show_default=False)] = None,
    speed: Annotated[float, typer.Option(help="How many times faster than real time audio is sent.", min=0.1)] = 5.0,
    think_ms: Annotated[float, typer.Option(help="The time from response.created to the first audio.", min=0)] = 120,
    session_seconds: Annotated[float, typer.Option(help="How many seconds a session lasts.", min=0.1)] = 3600,
    beta: Annotated[
        bool, typer.Option("--beta/--refuse-beta", help="Speak the retired beta, if a client asks.")
    ] = False,
    dialect: Annotated[
        str | None, typer.Option(help=f"Behave as another server: {', '.join(STAND_INS)}.", show_default=False)
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Serve wss:// with a new certificate; needs openssl.")] = False,
    slow_start: Annotated[float, typer.Option(help="How many seconds session.created is delayed.", min=0)] = 0,
    drop_after: Annotated[float | None, typer.Option(help="Cut the connection after this many seconds.", min=0)] = None,
    stall_after: Annotated[float | None, typer.Option(help="Send nothing more after this many seconds.", min=0)] = None,
    error: Annotated[list[str] | None, typer.Option(help="Send an error: SECONDS:CODE. Repeatable.")] = None,
    fail_responses: Annotated[int, typer.Option(help="Fail this many responses first.", min=0)] = 0,
    refuse_field: Annotated[
        list[str] | None, typer.Option(help="A session field to refuse as unknown, as a dotted path. Repeatable.")
    ] = None,
    refuse_model: Annotated[list[str] | None, typer.Option(help="A model to refuse as unknown. Repeatable.")] = None,
) -> None:
    """Run a simulated Realtime server until Ctrl-C. It refuses what the real server refuses, with the same messages."""
    faults = Faults(
        slow_start_seconds=slow_start,
        drop_after_seconds=drop_after,
        stall_after_seconds=stall_after,
        error_events=tuple(_error_event(text) for text in error or ()),
        refuse_fields=frozenset(refuse_field or ()),
        refuse_models=frozenset(refuse_model or ()),
        fail_responses=fail_responses,
    )
    _check_dialect(dialect, beta=beta)
    ear = None if scripted else default_ear()
    thinker = brain_of(brain, brain_model)
    try:
        server = Model(
            Script.of(script),
            brain=thinker,
            port=port,
            voice=agent_voice(),
            ear=ear,
            speed=speed,
            think_ms=think_ms,
            session_seconds=session_seconds,
            api_key=api_key,
            dialect=dialect,
            service=ANY_BETA if beta else None,
            tls=tls,
            faults=faults,
            watch=_Narrator().watch,
        )
    except DefinitionError as problem:
        raise typer.BadParameter(str(problem)) from problem
    asyncio.run(_run(server, port, _hearing(ear, thinker), thinker, dialect))


def _hearing(ear: Ear | None, brain: Brain | None) -> str:
    if ear is not None:
        return "that listens to the caller"
    if brain is None:
        return "that follows its script, whatever the caller says"
    return "that reads what clients write, but has no ear: pip install 'phoneagent[demo]'"


def _check_dialect(dialect: str | None, *, beta: bool) -> None:
    if beta and dialect is not None:
        raise typer.BadParameter(
            "a dialect says itself whether it is of the beta; leave --beta out", param_hint="--beta"
        )


async def _run(server: Model, port: int, hearing: str, brain: Brain | None, dialect: str | None) -> None:
    """Run the server until it is told to stop, or say that its port is in use."""
    query = f"?model={SIMULATED}" if dialect is None else ""  # another server may take no model there
    note = None if brain is None else await wake(brain)
    stop = stop_signal()
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(server)
        except OSError as problem:
            fail(f"{port_problem(port, problem)} with --port")
        typer.echo(f"A simulated Realtime server {hearing}. Ctrl-C stops it.")
        if note is not None:
            typer.echo(note)
        typer.echo(f"{server.url}{query}   (for SDKs, the base address {server.base_url})")
        if server.certificate is not None:
            typer.echo(f"Its certificate is {server.certificate}: trust it by SSL_CERT_FILE or NODE_EXTRA_CA_CERTS.")
        await stop.wait()
    typer.echo(f"{counted(len(server.sessions), 'session')}, {counted(len(server.violations), 'rule')} broken")
    for violation in server.violations:
        typer.echo(f"  {plain(violation)}")


def _error_event(text: str) -> tuple[float, dict[str, Any]]:
    seconds, _, code = text.partition(":")
    try:
        after_seconds = float(seconds)
    except ValueError as problem:
        raise typer.BadParameter(
            f"{text!r} is not SECONDS:CODE, like 5:server_error", param_hint="--error"
        ) from problem
    code = code or "server_error"
    kind = "server_error" if code == "server_error" else "invalid_request_error"
    error = {"type": kind, "code": code, "message": f"A simulated error: {code}.", "param": None, "event_id": None}
    return after_seconds, error


class _Narrator:
    """The printer of sessions: one line for each event that is worth showing."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._began = time.monotonic()

    def watch(self, session: SimulatedSession, direction: Literal["in", "out"], event: dict[str, Any]) -> None:
        words = _received(event) if direction == "in" else _sent(event)
        if words is not None:
            number = self._numbers.setdefault(session.session["id"], len(self._numbers) + 1)
            arrow = "->" if direction == "in" else "<-"
            typer.echo(f"{time.monotonic() - self._began:8.2f} s  #{number} {arrow} {plain(words)}")


def _received(event: dict[str, Any]) -> str | None:
    match event["type"]:
        case "conversation.item.truncate":
            return f"truncate {event['item_id']} at {event['audio_end_ms']} ms"
        case "conversation.item.create":
            return f"item {event['item'].get('type')}"
        case kind:
            return str(kind)


def _sent(event: dict[str, Any]) -> str | None:
    match event["type"]:
        case "session.created":
            return f"session.created {event['session'].get('model', 'for transcription')}"
        case "input_audio_buffer.speech_started":
            return f"the caller speaks, from {event['audio_start_ms']} ms"
        case "input_audio_buffer.speech_stopped":
            return f"the caller stopped, at {event['audio_end_ms']} ms"
        case "conversation.item.input_audio_transcription.completed":
            return f'the caller: "{event["transcript"]}"'
        case "response.output_audio_transcript.done":
            return f'the model: "{event["transcript"]}"'
        case "response.function_call_arguments.done":
            return f"the model calls {event['name']}({event['arguments']})"
        case "response.done":
            return f"response {event['response']['status']}"
        case "error":
            return f"error {event['error'].get('code')}: {event['error'].get('message')}"
        case "session.updated" | "conversation.item.truncated" as kind:
            return str(kind)
        case _:
            return None
