"""What an app counts, and the token that shows it."""

from __future__ import annotations

import aiohttp
import pytest
from pydantic import SecretStr

from phoneagent import Agent, CallEnded, RateLimitsUpdated
from phoneagent.sim import CallFailed, Faults, Model
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import World, Worlds

pytestmark = pytest.mark.anyio


async def metrics(w: World, token: str | None) -> tuple[int, str]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as http, http.get(f"{w.url}/metrics", headers=headers) as answer:
        return answer.status, await answer.text()


async def test_a_call_is_counted(world: Worlds) -> None:
    async with world(Agent(instructions="x"), 'default = "Yes."', api_token=SecretStr("let-me-in")) as w:
        async with w.phone().dial() as line:
            await line.say(Murmur().render("Hello?"))
            await line.wait_for_agent(ms=100)
            assert "phoneagent_calls_live 1.0" in (await metrics(w, "let-me-in"))[1]
        await w.until(lambda: w.of(CallEnded) and not w.app.calls)
        async with aiohttp.ClientSession() as http, http.post(f"{w.url}/twilio/voice") as answer:
            assert answer.status == 403
        _, text = await metrics(w, "let-me-in")
        assert "phoneagent_calls_live 0.0" in text
        assert "phoneagent_calls_started_total 1.0" in text
        assert 'phoneagent_calls_ended_total{ended_by="caller"} 1.0' in text
        assert 'phoneagent_requests_refused_total{what="webhook"} 1.0' in text
        assert "phoneagent_response_seconds_count 1.0" in text
        assert "+1555" not in text


async def test_metrics_need_the_token(world: Worlds) -> None:
    async with world(Agent(instructions="x"), api_token=SecretStr("let-me-in")) as w:
        assert (await metrics(w, None))[0] == 401
        assert (await metrics(w, "let-me-out"))[0] == 401
        assert (await metrics(w, "é"))[0] == 401
        assert (await metrics(w, "let-me-in"))[0] == 200
    async with world(Agent(instructions="x")) as w:
        assert (await metrics(w, "let-me-in"))[0] == 404


async def test_with_little_left_of_a_rate_limit_new_calls_are_turned_away_and_live_ones_go_on(world: Worlds) -> None:
    model = Model('default = "Yes."', faults=Faults(fail_responses=1, rate_limit_resets_seconds=2))
    agent = Agent(instructions="x", greeting="Hello!")
    async with (
        world(agent, model=model, rate_limit_reserve=0.5, api_token=SecretStr("let-me-in")) as w,
        w.phone().dial() as line,
    ):
        await w.until(lambda: w.of(RateLimitsUpdated))
        with pytest.raises(CallFailed, match="busy"):
            async with w.phone().dial():
                pass
        text = (await metrics(w, "let-me-in"))[1]
        assert 'phoneagent_calls_turned_away_total{reason="limited"} 1.0' in text
        assert 'phoneagent_rate_limit_remaining{model="gpt-realtime-2.1",name="tokens"} 0.0' in text
        await line.wait_for_silence(ms=200)
        assert line.heard
        async with w.phone().dial() as another:  # there is room again
            await another.wait_for_silence(ms=200)
            assert another.heard
