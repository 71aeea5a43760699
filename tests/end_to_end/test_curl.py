"""The curl lines of the page on the control API, run by a shell against a real server with a call."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from phoneagent import Agent, CallControlled, CallEnded
from phoneagent.sim import TwilioRest
from phoneagent.sim.twilio.callee import Callee, Exchange
from phoneagent.sim.twilio.line import Line
from phoneagent.store import Store
from tests.console.test_playing import wav
from tests.end_to_end.conftest import ACCOUNT_SID, AUTH_TOKEN, Worlds
from tests.patience import HANG_SECONDS

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.real_time,
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl"),
]

PAGE = Path(__file__).parents[2] / "docs" / "control-api.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
EXAMPLES = {"url": "http://127.0.0.1:8000", "sid": "CA" + "0123456789abcdef" * 2, "id": "0123456789abcdef" * 2}
OURS = "+15550100002"


def block(words: str) -> str:
    """Return the one block of the page that has these words."""
    (found,) = (each for each in BLOCKS if words in each)
    return found


async def stays(line: Line) -> None:
    await asyncio.sleep(600)


async def test_each_line_of_the_page_does_what_it_says(world: Worlds, tmp_path: Path) -> None:
    (tmp_path / "closing.wav").write_bytes(wav(seconds=40))  # longer than an argument of a command may be
    anna, billing = Callee("+12025550123", stays, rings=0), Callee("+12025550107", stays)
    environment = {"PATH": os.environ["PATH"], "PHONEAGENT_API_TOKEN": "let-me-in"}
    settings = {"api_token": SecretStr("let-me-in"), "twilio_phone_number": OURS, "calls_per_second": 0}

    async def answers(words: str, **places: str) -> list[Any]:
        """Run a block of the page, with what stands in the place of its examples, and return the answers."""
        shell = re.sub(r"\bcurl\b", r"curl -sS -w '\\n'", block(words))
        for name, new in places.items():
            assert EXAMPLES[name] in shell
            shell = shell.replace(EXAMPLES[name], new)
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", shell, cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(HANG_SECONDS):
            output, _ = await process.communicate()
        return [json.loads(each) for each in output.decode().splitlines()]

    async with (
        TwilioRest(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN) as rest,
        Store.from_url(f"sqlite:///{tmp_path}/calls.db") as store,
        world(Agent(instructions="x", greeting="Hello!"), store=store, twilio_api_url=rest.url, **settings) as w,
        Exchange(w.phone(rest=rest), anna, billing) as exchange,
    ):
        rest.add_number(OURS)
        (made,) = await answers('"on_machine": "hang_up"', url=w.url)
        line = await anna.called()
        async with asyncio.timeout(HANG_SECONDS):  # Twilio's answer to the app may come after the ringing
            while (shown := (await answers("/calls/outbound/", url=w.url, id=made["id"]))[0])["call_sid"] is None:
                pass
        assert (shown["id"], shown["call_sid"], shown["to"]) == (made["id"], line.call_sid, "+1••••••23")
        await w.until(lambda: line.call_sid in w.app.calls)
        (page,) = await answers('" http://127.0.0.1:8000/calls\n', url=w.url)
        assert [each["state"] for each in page["calls"]] == ["live"]
        found = await answers("/transfer", url=w.url, sid=line.call_sid)
        operations = ["say", "play", "send-digits", "note", "interrupt", "mute", "transfer", "hang-up"]
        assert [each.get("operation", each) for each in found] == operations
        await w.until(lambda: w.of(CallEnded))
        assert [each.operation for each in w.of(CallControlled)] == operations
    assert exchange.failures == []
    assert rest.violations == []
