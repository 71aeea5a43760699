"""The doctor's checks of an app that is served."""

from __future__ import annotations

import pytest

from phoneagent import Agent, Endpoint, PhoneApp, Settings
from phoneagent.cli.examining import examining
from phoneagent.sim import Model, serving
from tests.ports import free_port

pytestmark = pytest.mark.anyio


SETTINGS = Settings(insecure=True, endpoint_in_code=True)


async def test_an_insecure_app_is_checked_at_its_own_address() -> None:
    async with Model() as model:
        endpoint = Endpoint(f"{model.url}?model=gpt-realtime-2.1")
        settings = SETTINGS.model_copy(update={"public_url": f"http://127.0.0.1:{(port := free_port())}"})
        app = PhoneApp(Agent(name="host", instructions="x"), settings=settings, endpoint=endpoint)
        async with serving(app, port=port):
            found = {check.name: (str(check.status), check.text) async for check in examining(app)()}
    assert found["settings"][0] == "note"
    assert found["webhook"][0] == found["media socket"][0] == "ok"
    assert found["model"] == ("ok", "host's session with gpt-realtime-2.1 opens at 127.0.0.1")
    assert found["database"][0] == "ok"


async def test_an_agent_that_each_call_chooses_and_an_app_that_does_not_run() -> None:
    settings = SETTINGS.model_copy(update={"public_url": "http://127.0.0.1:1"})
    app = PhoneApp(
        lambda call: Agent(instructions="x"), settings=settings, endpoint=Endpoint("ws://127.0.0.1:1/?model=m")
    )
    found = {check.name: check async for check in examining(app)()}
    assert "start the app" in found["webhook"].text
    assert found["model"].status == "failed"
