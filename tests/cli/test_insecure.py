"""`phoneagent serve --insecure` and `phoneagent sim call`: a call without an account, from this machine only."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from phoneagent.sim import Model
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio

APP = """
from phoneagent import Agent, PhoneApp
app = PhoneApp(Agent(instructions="Be brief.", greeting="Hello!"))
"""
FORM = {"CallSid": "CA" + "1" * 32, "AccountSid": "AC" + "2" * 32, "From": "+15550100001", "To": "+15550100002"}


@pytest.fixture(params=["1", "2"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """Where a server without any of Twilio's settings answers, in one process and in two."""
    (tmp_path / "main.py").write_text(APP)
    log = tmp_path / "log"
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("TWILIO_", "PUBLIC_", "OPENAI_"))}
    async with Model() as model:
        environment = {
            **ours,
            "PHONEAGENT_ENV_FILE": "",
            "REALTIME_URL": model.url,
            "WEB_CONCURRENCY": request.param,
            "LOG_FORMAT": "text",
            "DATABASE_URL": f"sqlite:///{tmp_path}/records.db",
        }
        command = [sys.executable, "-m", "phoneagent", "serve", "--insecure", "--port", "0"]
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=tmp_path, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            async with asyncio.timeout(HANG_SECONDS):
                while not (found := re.search(r"listening on (http://127\.0\.0\.1:\d+)", log.read_text())):
                    assert process.returncode is None, log.read_text()
                    await asyncio.sleep(0.05)
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), HANG_SECONDS) == 0, log.read_text()


async def test_calls_of_this_machine_are_taken_and_a_page_in_a_browser_is_refused(url: str, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as http:
        for method in ("GET", "POST"):
            tunneled = {"X-Forwarded-For": "203.0.113.9"}
            for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}, tunneled):
                async with http.request(method, f"{url}/twilio/voice", params=FORM, headers=headers) as answer:
                    assert answer.status == 403, (method, headers)
    command = [sys.executable, "-m", "phoneagent", "sim", "call", f"{url}/twilio/voice"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TWILIO_")}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, said.decode()
