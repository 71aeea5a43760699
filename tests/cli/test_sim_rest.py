"""`phoneagent sim rest` as a process: an account with a number, until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import re
import signal
import socket
import sys
from types import SimpleNamespace

import pytest

from phoneagent.cli import sim_rest
from phoneagent.twilio.rest import PhoneNumbers
from tests.cli.conftest import run
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
ACCOUNT, TOKEN, NUMBER = "AC" + "1" * 32, "the-auth-token-of-it", "+15550100009"


async def test_it_serves_an_account_with_its_number() -> None:
    options = ["--port", "0", "--account-sid", ACCOUNT, "--auth-token", TOKEN, "--number", NUMBER]
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-u", "-m", "phoneagent", "sim", "rest", *options], stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(HANG_SECONDS):
        found = re.search(r"http://127\.0\.0\.1:\d+", (await process.stdout.readline()).decode())
        assert found is not None
        numbers = PhoneNumbers(ACCOUNT, TOKEN, api_url=found[0])
        assert (await numbers.find(NUMBER)).has_voice
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


def test_an_output_that_is_closed_is_not_the_port_s(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sim_rest, "stop_signal", lambda: SimpleNamespace(wait=broken))
    assert run(monkeypatch, "sim", "rest", "--port", "0") == 1
    assert "cannot be used" not in capsys.readouterr().err


def test_a_port_in_use_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run(monkeypatch, "sim", "rest", "--port", str(taken.getsockname()[1])) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "choose another with --port" in line
