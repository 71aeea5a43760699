"""`phoneagent call`: a call to a number, held by the app at PUBLIC_URL."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from phoneagent.cli.target import Target
from phoneagent.errors import DefinitionError, TelephonyError
from phoneagent.server import PhoneApp

if TYPE_CHECKING:
    from phoneagent.store.records import OutboundCall

LOOK_SECONDS = 0.5
UNHEARD_SECONDS = 20.0
"""How soon after the call was placed the app must have heard about it from Twilio."""


def call(
    number: Annotated[str, typer.Argument(help="The number to call, in E.164, like +15550100009.")],
    target: Annotated[
        str | None, typer.Argument(help="The app, as `module:app` or `file.py`. Default: main.py, app.py or agent.py.")
    ] = None,
    context: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A value for `call.context`. Repeatable.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="The idempotency key: the same key makes only one call.")] = None,
    caller_id: Annotated[
        str | None, typer.Option("--from", help="The caller ID. Default: TWILIO_PHONE_NUMBER.")
    ] = None,
    agent: Annotated[str | None, typer.Option(help="The name of the agent that takes the call.")] = None,
    first: Annotated[Literal["agent", "callee"], typer.Option(help="The side that speaks first.")] = "callee",
    on_machine: Annotated[
        Literal["talk", "hang_up", "leave_message"], typer.Option(help="What to do with an answering machine.")
    ] = "talk",
    message: Annotated[str | None, typer.Option(help="The words to leave after the beep.")] = None,
    timeout: Annotated[int, typer.Option(help="How long to let it ring, in seconds.")] = 30,
    time_limit: Annotated[int | None, typer.Option(help="How long the call may last, in seconds.")] = None,
) -> None:
    """Call a number, and report how it goes until the call is over.

    The app must be running at PUBLIC_URL, with the same database: it answers Twilio and holds the conversation.
    """
    values = dict(_pair(each) for each in context or ())
    app = Target.find(target).load()
    options = {
        "context": values,
        "idempotency_key": key,
        "from_": caller_id,
        "agent": agent,
        "first": first,
        "on_machine": on_machine,
        "message": message,
        "timeout": timeout,
        "time_limit": time_limit,
    }
    if not asyncio.run(_call(app, number, options)):
        raise typer.Exit(1)


async def _call(app: PhoneApp, number: str, options: dict[str, Any]) -> bool:
    """Make the call, and return whether it was answered."""
    shown, placed_at = "", 0.0
    try:
        made = await app.dial(number, **options)
        while True:
            found = await app.outbound_call(made.id)
            if found is None:
                raise TelephonyError("the call is no longer in the database: it was forgotten")
            if found.status != shown:
                shown, placed_at = found.status, time.monotonic()
                typer.echo(f"{shown}{f': {found.error}' if found.error else ''}")
            if found.over:
                _conclude(found)
                return found.status == "completed"
            if shown == "placed" and time.monotonic() > placed_at + UNHEARD_SECONDS:
                raise TelephonyError(
                    "Twilio has the call, and no report of it reached the database: is the app running at PUBLIC_URL, "
                    "with the same DATABASE_URL?"
                )
            await asyncio.sleep(LOOK_SECONDS)
    except asyncio.CancelledError:  # Ctrl-C
        if shown:
            typer.echo("the call goes on when this command ends: the app at PUBLIC_URL places it", err=True)
        raise
    finally:
        await app.stop_dialing()


def _conclude(found: OutboundCall) -> None:
    if found.decided:
        typer.echo(f"answered by: {found.decided}")
    if found.message_left is not None:
        typer.echo(f"message left: {'yes' if found.message_left else 'no'}")
    if found.call_sid:
        typer.echo(f"phoneagent calls {found.call_sid}")


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise DefinitionError(f"--context {text!r:.80} is no NAME=VALUE: write --context name=Anna")
    return name, value
