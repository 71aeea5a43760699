"""The app inside another one: below a path, and without its lifespan."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from phoneagent import Agent, PhoneApp
from phoneagent.sim import Model, Phone, serving
from tests.end_to_end.conftest import ACCOUNT_SID, AUTH_TOKEN, settings

pytestmark = pytest.mark.anyio


def in_starlette(app: PhoneApp) -> Any:
    return Starlette(routes=[Mount("/deep/phone", app)])


def in_fastapi(app: PhoneApp) -> Any:
    outer = FastAPI()
    outer.mount("/deep/phone", app)
    return outer


@pytest.mark.parametrize("mount", [in_starlette, in_fastapi])
async def test_a_call_to_a_mounted_app(mount: Any) -> None:
    async with Model() as model:
        public = "https://agent.example/deep/phone"
        app = PhoneApp(
            Agent(instructions="x", greeting="Hello from below!"),
            settings=settings(public_url=public, realtime_url=model.url),
        )
        async with serving(mount(app)) as url:
            # The phone's public address stands for scheme and host; the rest is in the path, as Twilio sees it.
            phone = Phone(
                f"{url}/deep/phone/twilio/voice",
                auth_token=AUTH_TOKEN,
                public_url="https://agent.example",
                account_sid=ACCOUNT_SID,
            )
            async with phone.dial() as line:
                await line.wait_for_silence(ms=100)
            assert line.violations == []
            assert [item.text for item in model.sessions[0].audio_items] == ["Hello from below!"]
