"""What a call costs: in its events, in its record, at /metrics; and a call that costs too much."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from phoneagent import Agent, CallEnded, Cost, Endpoint, PhoneApp, Price, UsageReported
from phoneagent.billing.prices import PRICES
from phoneagent.sim.speech import Murmur
from phoneagent.store import Store
from tests.end_to_end.conftest import Worlds, settings

pytestmark = pytest.mark.anyio
VOICE = Murmur()
AGENT = Agent(instructions="x", greeting="Hello!")
SCRIPT = """
default = "I see."
goodbye = "Goodbye!"
"""


async def test_a_call_tells_what_it_costs(world: Worlds, tmp_path: Path) -> None:
    store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
    async with world(AGENT, SCRIPT, store=store) as w:
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=300)
            await line.say(VOICE.render("I want a table."))
            await line.wait_for_silence(ms=300)
            await w.until(lambda: {each.source for each in w.of(UsageReported)} == {"response", "transcription"})
        await w.until(lambda: w.of(CallEnded))
        (ended,) = w.of(CallEnded)
        reports = w.of(UsageReported)
        assert {each.model for each in reports} == {"gpt-realtime-2.1", "gpt-transcribe"}
        assert not any(each.cost.at_least for each in reports)
        assert ended.cost == reports[-1].total == sum((each.cost for each in reports), Cost())
        assert ended.cost.usd > Decimal("0.001")
        record = await store.call(line.call_sid)
        assert record is not None
        assert record.cost == ended.cost
        text = w.app._parts.metrics.text().decode()
        assert f"phoneagent_cost_dollars_total {float(ended.cost.usd)}" in text
        assert 'phoneagent_tokens_total{kind="audio_out"}' in text


async def test_a_call_that_costs_too_much_ends_politely(world: Worlds) -> None:
    async with world(AGENT, SCRIPT, max_call_cost=Decimal("0.0001")) as w:
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=500)
            await line.say(VOICE.render("I want a table."))
            await line.wait_ended(30)
        assert line.ended_by == "agent"
        assert line.violations == []
        assert w.model.violations == []
        await w.until(lambda: w.of(CallEnded))
        (ended,) = w.of(CallEnded)
        assert ended.reason == "the call reached its cost limit"
        assert ended.transcript[-1].text == "Goodbye!"


async def test_the_cost_goes_on_in_the_next_stream(world: Worlds, tmp_path: Path) -> None:
    store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
    async with world(AGENT, SCRIPT, store=store) as w, w.phone().dial() as line:
        await line.wait_for_silence(ms=300)
        await w.until(lambda: w.of(UsageReported))
        first = w.of(UsageReported)[-1].total
        w.app._parts.calls._sessions[line.call_sid].hand_over("test")
        await w.until(lambda: len(w.model.sessions) == 2)
        await line.say(VOICE.render("I want a table."))
        await w.until(lambda: w.of(UsageReported)[-1].total.usd > first.usd)
        after = w.of(UsageReported)
        assert after[-1].total == sum((each.cost for each in after), Cost())


FREE = Price(**dict.fromkeys(("text_in", "text_out", "audio_in", "audio_out", "minute"), 0))  # type: ignore[arg-type]


async def test_prices_of_the_settings_go_before_the_table(world: Worlds) -> None:
    async with world(AGENT, SCRIPT, prices={"gpt-realtime-2.1": FREE}) as w:
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=300)
            await w.until(lambda: w.of(UsageReported))
        assert w.of(UsageReported)[0].usage.audio_out > 0
        assert w.of(UsageReported)[0].cost == Cost()


async def test_prices_in_code_go_before_both() -> None:
    dear = Price(minute=Decimal(9))
    given = settings(prices={"gpt-transcribe": FREE, "house": FREE})
    app = PhoneApp(AGENT, settings=given, endpoint=Endpoint("ws://unused"), prices={"house": dear})
    prices = app._parts.calls._policy.prices
    assert (prices["house"], prices["gpt-transcribe"]) == (dear, FREE)
    assert prices["gpt-realtime"] is PRICES["gpt-realtime"]
