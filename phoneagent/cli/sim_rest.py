"""`phoneagent sim rest`: Twilio's REST API for one account, on this machine."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from phoneagent.cli.failures import fail, port_problem
from phoneagent.cli.stopping import stop_signal
from phoneagent.sim.twilio.phone import ACCOUNT_SID, CALLED
from phoneagent.sim.twilio.rest import TwilioRest


def rest(
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1; 0 picks a free one.", min=0, max=65535)] = 9001,
    account_sid: Annotated[
        str, typer.Option(envvar="TWILIO_ACCOUNT_SID", help="The account, which is the clients' username.")
    ] = ACCOUNT_SID,
    auth_token: Annotated[
        str, typer.Option(envvar="TWILIO_AUTH_TOKEN", help="Its auth token, which is the clients' password.")
    ] = "0" * 32,
    number: Annotated[
        list[str] | None, typer.Option(help=f"A phone number of the account. Default: {CALLED}. Repeatable.")
    ] = None,
) -> None:
    """Serve Twilio's REST API, to try out what a program does with its numbers. Calls need `sim call --rest-port`.

    phoneagent uses it if TWILIO_API_URL is set to its address. The exit status is 1 if a client broke a rule.
    """
    api = TwilioRest(account_sid=account_sid, auth_token=auth_token, port=port)
    for each in number or [CALLED]:
        api.add_number(each)
    asyncio.run(_run(api, port))
    for violation in api.violations:
        typer.echo(f"a rule was broken: {violation}", err=True)
    if api.violations:
        raise typer.Exit(1)


async def _run(api: TwilioRest, port: int) -> None:
    stop = stop_signal()
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(api)
        except OSError as error:
            fail(f"{port_problem(port, error)} with --port")
        typer.echo(f"Twilio's REST API: {api.url} in place of https://api.twilio.com. Ctrl-C stops it.")
        await stop.wait()
