"""The server of the demonstration: the real app, in its own process, on loopback."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from phoneagent.billing.prices import SIMULATED
from phoneagent.errors import PhoneAgentError, shown
from phoneagent.settings import Settings

START_SECONDS = 20.0
"""How long the process may take to answer GET /healthz."""

STOP_SECONDS = 8.0
"""How long the process may take to end after SIGTERM."""

TAIL_LINES = 15

RECORDS = "demo.db"
"""The database of the call's record. Its name is not the app's own one, which the folder may have as well."""

KEPT_DAYS = 36500
"""The maximum of RECORD_DAYS: a database that was there before loses nothing."""

PUBLIC_URL = "https://phoneagent.example"

_ENDED = re.compile(r"phoneagent\.call: CA\w+ ended by error after \d+ ms: (.+)$", re.M)
_RAISED = re.compile(
    r"phoneagent\.(?:agent\.tools|calls\.hooks|calls\.guardrail): "
    r"((?:tool|hook|the guardrail)\b.* failed\b.*) \[CA\w+\]$",
    re.M,
)
_LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\d ", re.M)
_OWN_PREFIXES = ("OPENAI_", "REALTIME_", "TWILIO_", "PHONEAGENT_")
_OWN_NAMES = frozenset(name.upper() for name in Settings.model_fields)


class ServerFailed(PhoneAgentError):
    """The app did not start. `tail` holds the last lines of its log."""

    def __init__(self, message: str, tail: str) -> None:
        self.tail = tail
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Server:
    """A running app: its voice webhook, the credentials that sign its calls, and the database of its records."""

    webhook_url: str
    account_sid: str
    auth_token: str = field(repr=False)
    public_url: str = PUBLIC_URL
    records: Path | None = None

    @property
    def console_url(self) -> str:
        """Where a browser on this machine sees the call."""
        return self.webhook_url.removesuffix("/twilio/voice") + "/console"


@asynccontextmanager
async def serve(target: str, *, model_url: str, model_key: str, log: Path) -> AsyncIterator[Server]:
    """Run `phoneagent serve TARGET` with made-up credentials and the model at `model_url` while the context lasts.

    Accounts, keys and addresses from the environment and from `.env` are ignored. The process writes its output to the
    file `log`.

    Raises:
        ServerFailed: the process ended, or did not answer within `START_SECONDS`.
    """
    port, records = _free_port(), log.parent.absolute() / RECORDS
    account_sid, auth_token = "AC" + secrets.token_hex(16), secrets.token_hex(16)
    environment = {
        **_neutral(os.environ),
        "TWILIO_ACCOUNT_SID": account_sid,
        "TWILIO_AUTH_TOKEN": auth_token,
        "PUBLIC_URL": PUBLIC_URL,
        "OPENAI_API_KEY": "sk-none",
        "OPENAI_MODEL": SIMULATED,
        "REALTIME_URL": model_url,
        "REALTIME_API_KEY": model_key,
        "PHONEAGENT_ENV_FILE": "",
        "LOG_FORMAT": "text",
        "DATABASE_URL": f"sqlite:///{records}",
        "RECORD_DAYS": str(KEPT_DAYS),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    command = [sys.executable, "-m", "phoneagent", "serve", target, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--local-api"]  # a browser on this machine shows the call
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        await _wait_healthy(process, f"http://127.0.0.1:{port}", target, log)
        yield Server(f"http://127.0.0.1:{port}/twilio/voice", account_sid, auth_token, records=records)
    finally:
        await _stop(process)


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:])


def cause_in(log: Path) -> str | None:
    """Return why a call failed, in one line, from the app's log; None if the log does not say."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    ends = _ENDED.findall(text)
    if not ends:
        return None
    reason = ends[-1]
    what, _, kind = reason.rpartition(": ")
    for traceback in reversed(text.split("Traceback (most recent call last):\n")[1:]):
        raised = _exception(traceback)
        if raised.startswith(kind):  # the others belong to something else
            return shown(f"{what}: {raised}{_place(traceback.partition(raised)[0])}")
    return shown(reason)


def raised_in(log: Path) -> list[str]:
    """Return a line for each tool, hook and guardrail that raised, from the app's log: what it raised, and where."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    told = []
    for found in _RAISED.finditer(text):
        traceback = _LOG_LINE.split(text[found.end() :], maxsplit=1)[0]
        words = found[1] if not found[1].endswith(" failed") else f"{found[1]}: {_exception(traceback)}"
        told.append(f"{shown(words)}{_place(traceback)}")
    return list(dict.fromkeys(told))


def _exception(traceback: str) -> str:
    """Return the first line of the exception that a traceback ends with."""
    last = traceback.rpartition("Traceback (most recent call last):\n")[2]
    return next((line for line in last.splitlines() if line and not line.startswith(" ")), "")


def _place(traceback: str) -> str:
    """Return where a traceback ends, in parentheses; "" if it does not say."""
    places = re.findall(r'^  File "([^"]+)", line (\d+)', traceback, re.M)
    return f" ({Path(places[-1][0]).name}, line {places[-1][1]})" if places else ""


def _neutral(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without anything that phoneagent reads. The user's own app may need the rest."""
    return {
        name: value
        for name, value in environment.items()
        if not name.upper().startswith(_OWN_PREFIXES) and name.upper() not in _OWN_NAMES
    }


def _free_port() -> int:
    """Return a free port below those that systems give out by themselves: it must stay free until the server starts.

    Otherwise another program could get it in the meantime, and its answers would be taken for the server's.
    """
    while True:
        port = 12_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


async def _wait_healthy(process: asyncio.subprocess.Process, url: str, target: str, log: Path) -> None:
    try:
        async with asyncio.timeout(START_SECONDS), aiohttp.ClientSession() as client:
            while process.returncode is None:
                try:
                    async with client.get(f"{url}/healthz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass  # not listening yet
                await asyncio.sleep(0.05)
    except TimeoutError:
        message = f"{target} did not answer GET /healthz within {START_SECONDS:g} s: see {log}"
        raise ServerFailed(message, tail(log)) from None
    raise ServerFailed(f"{target} ended with status {process.returncode} before it served: see {log}", tail(log))


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
