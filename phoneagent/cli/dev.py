"""`phoneagent dev`: the app on this machine behind a real phone number, with reload."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer

from phoneagent import settings
from phoneagent.cli.diversion import Diversion, only_one
from phoneagent.cli.failures import fail, port_problem
from phoneagent.cli.stopping import stop_signal
from phoneagent.cli.target import Target
from phoneagent.cli.tunnel import AGENT_APIS, tunnel
from phoneagent.errors import ConfigurationError, PhoneAgentError
from phoneagent.server import VOICE_PATH
from phoneagent.settings import Settings
from phoneagent.twilio.pointing import webhook_of
from phoneagent.twilio.rest import PhoneNumbers

FOLDER = Path(".phoneagent")
NOT_YET_KNOWN = "https://not-yet-known.invalid"

PATIENCE_SECONDS = 20.0
"""How long the app may take to answer before a message says that it does not. Its own output is above the message."""

POLL_SECONDS = 0.1
STOP_SECONDS = 8.0
RESTORE_SECONDS = 30.0


def dev(
    target: Annotated[
        str | None, typer.Argument(help="The app, as `module:app` or `file.py`. Default: main.py, app.py or agent.py.")
    ] = None,
    public_url: Annotated[
        str | None, typer.Option(help="The public address of this machine, if you run your own tunnel.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="The local port. Default: PORT, or 8000.", min=1, max=65535)] = None,
) -> None:
    """Run the app with reload, open a tunnel, and point TWILIO_PHONE_NUMBER at it. Ctrl-C restores the old webhook."""
    found = Target.find(target)
    try:
        loaded = settings.load({"public_url": public_url or NOT_YET_KNOWN, **({"port": port} if port else {})})
    except ConfigurationError as error:
        raise found.explained(ConfigurationError([_about_option(line) for line in error.problems])) from None
    status = asyncio.run(_until_signal(lambda stop: run(target, loaded, stop)))
    raise typer.Exit(status)


def _about_option(line: str) -> str:
    """Return a line about PUBLIC_URL as one about the option that it comes from."""
    line = line.replace("PUBLIC_URL is malformed: ", "--public-url is malformed: ")
    return line.replace("`phoneagent dev` opens a tunnel to it", "leave the option out, and a tunnel is opened")


async def _until_signal(work: Callable[[asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    return await work(stop_signal())


async def run(
    target: str | None, loaded: Settings, stop: asyncio.Event, *, agent_apis: Sequence[str] = AGENT_APIS
) -> int:
    """Run the command in the working directory until `stop` is set or the app ends, and return the exit status.

    If the settings have no `public_url`, a running tunnel is used, or else a new one is opened.

    Raises:
        typer.Exit: the port is in use.
        PhoneAgentError: there is no tunnel or no such number, or Twilio does not answer. The webhook is restored first.
    """
    numbers = PhoneNumbers(loaded.twilio_account_sid, loaded.auth_tokens[0], api_url=loaded.twilio_api_url)
    diversion = Diversion(numbers, FOLDER)
    async with AsyncExitStack() as stack:
        stack.enter_context(only_one(FOLDER))
        if await diversion.restore():
            typer.echo("Your number's old webhook, which an earlier run had replaced, is restored.")
        _check_free(loaded.port)
        public, has_own_tunnel = loaded.public_url, loaded.public_url != NOT_YET_KNOWN
        if not has_own_tunnel:
            authtoken = loaded.ngrok_authtoken.get_secret_value() if loaded.ngrok_authtoken else None
            public = await stack.enter_async_context(tunnel(loaded.port, authtoken, agent_apis=agent_apis))
        server = await stack.enter_async_context(_server(target, loaded.port, public, local_api=not has_own_tunnel))
        if not await _answers(server, loaded.port, stop):
            return _status(server, stop)
        stack.push_async_callback(_restore, diversion)
        await _point(diversion, loaded.twilio_phone_number, public)
        if not has_own_tunnel:
            typer.echo(f"See every call at http://127.0.0.1:{loaded.port}/console")
        await _first(server.wait(), stop.wait())
        return _status(server, stop)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as problem:
            fail(f"{port_problem(port, problem)} with --port")


@asynccontextmanager
async def _server(
    target: str | None, port: int, public_url: str, *, local_api: bool
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `phoneagent serve --reload` while the context lasts.

    `local_api` is not safe with every tunnel: behind a proxy that adds no headers, a stranger looks like this machine.
    ngrok adds some.
    """
    command = [sys.executable, "-m", "phoneagent", "serve", *([target] if target else [])]
    command += ["--reload", "--show-transcript", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--local-api"] if local_api else []
    environment = settings.environment({"PUBLIC_URL": public_url, "PORT": str(port)})
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdin=asyncio.subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _answers(server: asyncio.subprocess.Process, port: int, stop: asyncio.Event) -> bool:
    """Wait until the app answers, even if its author has to fix it first; False if the app ended or `stop` was set."""
    loop = asyncio.get_running_loop()
    speak_at = loop.time() + PATIENCE_SECONDS
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
        while server.returncode is None and not stop.is_set():
            try:
                async with http.get(f"http://127.0.0.1:{port}/healthz") as answer:
                    if answer.status == 200:
                        return True
            except (aiohttp.ClientError, OSError):
                pass  # not listening yet
            if loop.time() > speak_at:
                typer.echo("The app does not answer yet: see above. Your number will point to it as soon as it does.")
                speak_at = float("inf")
            await asyncio.sleep(POLL_SECONDS)
    return False


async def _point(diversion: Diversion, number: str | None, public: str) -> None:
    if number is None:
        typer.echo(f'TWILIO_PHONE_NUMBER is not set: set "A call comes in" of your number to {public}{VOICE_PATH}')
        return
    await diversion.divert(number, webhook_of(public))
    typer.echo(f"Call {number}. Calls arrive through {public}. Ctrl-C restores the number's webhook.")


async def _restore(diversion: Diversion) -> None:
    try:
        async with asyncio.timeout(RESTORE_SECONDS):
            if await diversion.restore():
                typer.echo("The number's webhook is restored.")
    except (PhoneAgentError, TimeoutError) as error:
        typer.echo(f"The number's webhook could not be restored, the next start tries again: {error}", err=True)


async def _first(*waiting: Coroutine[Any, Any, Any]) -> None:
    tasks = [asyncio.ensure_future(each) for each in waiting]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _status(server: asyncio.subprocess.Process, stop: asyncio.Event) -> int:
    return 0 if stop.is_set() else server.returncode or 0
