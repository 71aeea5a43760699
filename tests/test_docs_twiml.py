"""The TwiML of the documentation is true: a call that begins with it reaches the agent, with its parameters."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.requests import Request
from starlette.responses import Response

from phoneagent.settings import load
from phoneagent.sim import Model, Phone, Script, serving
from tests.examples.conftest import Quick
from tests.patience import HANG_SECONDS
from tests.test_docs import ACCOUNT, BLOCKS, PYTHON, TOKEN, run_blocks, user

__all__ = ["user"]  # a fixture, which pytest finds here by its name

pytestmark = pytest.mark.anyio

(TWIML,) = (block for block in BLOCKS["agent.md"] if block.language == "xml")
PUBLIC = "https://agent.example.com"


async def own(request: Request) -> Response:
    """Answer as an IVR of the user's own would."""
    return Response(TWIML.text, media_type="application/xml")


async def test_a_call_that_begins_with_own_twiml_reaches_the_agent(user: Path) -> None:
    assert PUBLIC in TWIML.text
    sections = list(dict.fromkeys(block.section for block in PYTHON["agent.md"]))
    until = sections[: sections.index(TWIML.section) + 1]
    app = run_blocks([block for block in PYTHON["agent.md"] if block.section in until], user)["app"]
    app.add_route("/ivr", own, methods=["POST"])
    async with Model(Script.parse('default = "Yes."'), voice=Quick()) as model:
        app.settings = load({"realtime_url": model.url, "public_url": PUBLIC})
        async with serving(app) as url:
            phone = Phone(f"{url}/ivr", auth_token=TOKEN, public_url=PUBLIC, account_sid=ACCOUNT)
            async with phone.dial() as line, asyncio.timeout(HANG_SECONDS):
                while not (model.sessions and model.sessions[-1].said):
                    await asyncio.sleep(0.01)
                call = app.calls[line.call_sid]
                assert {"tenant": "7", "language": "fr"}.items() <= call.parameters.items()
    assert model.sessions[-1].said[0] == "The workshop, hello!"
    assert [urlsplit(verb.removeprefix("Redirect ")).path for verb in line.verbs if "Redirect" in verb] == [
        "/twilio/voice"
    ]
    assert line.violations == model.violations == []
