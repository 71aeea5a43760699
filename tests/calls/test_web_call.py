"""The shell of a web call: the agent's tools run, and whatever ends the call leaves nothing of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Never

import pytest

from phoneagent import Agent, Call, EndpointUnreachable, hang_up, tool
from phoneagent.billing.prices import PRICES
from phoneagent.bridge.web_call import WebConversation
from phoneagent.calls.web_call import WebCall
from phoneagent.events import CallEnded, Event, ModelEvent, ToolReturned, Trouble, TurnEnded
from phoneagent.protocol import realtime
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


class SideBand:
    """A socket to the session, whose server says what it is told to."""

    dropped = ()
    writable = True

    def __init__(self) -> None:
        self.events: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self.effective: Mapping[str, Any] = {}
        self.sent: list[realtime.ToModel] = []
        self.closed = False

    def write(self, messages: Iterable[realtime.ToModel]) -> None:
        self.sent += messages

    async def read(self, take: Callable[[bytes], None], resumed: Callable[[], None]) -> Never:
        while True:
            event = await self.events.get()
            if isinstance(event, Exception):
                raise event
            take(event)

    def decode(self, raw: bytes) -> realtime.FromModel:
        return realtime.decode(raw)

    async def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.events.put_nowait(EndpointUnreachable("aborted"))

    def tell(self, kind: str, **fields: Any) -> None:
        self.events.put_nowait(json.dumps({"type": kind, **fields}).encode())

    def calls_tool(self, name: str, arguments: str = "{}") -> None:
        item = {"id": "f", "type": "function_call", "call_id": "c", "name": name, "arguments": arguments}
        self.tell("response.created", response={"id": "r"})
        self.tell("response.output_item.done", response_id="r", item=item | {"status": "completed"})
        self.tell("response.done", response={"id": "r", "status": "completed", "output": [item]})


class Rig:
    def __init__(
        self, *tools: Any, max_seconds: float = 60, model_events: bool = False, handoffs: Any = (), **options: Any
    ) -> None:
        self.model = SideBand()
        self.events: list[Event] = []
        agent = Agent(name="shop", instructions="x", tools=list(tools), handoffs=list(handoffs))
        self.call = Call(sid="WC1", caller=None, called=None, direction="web", started_at=datetime.now(UTC))
        self.web = WebConversation(
            "WC1", model="gpt-realtime-2.1", recognizer="x", prices=PRICES, greeting=None, **options
        )
        self.running = WebCall(
            self.call,
            agent,
            self.web,
            self.model,
            self.events.append,
            journal=None,
            max_seconds=max_seconds,
            model_events=model_events,
        )

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def ended(self) -> CallEnded:
        (found,) = self.of(CallEnded)
        assert self.model.closed
        assert isinstance(found, CallEnded)
        return found


async def test_a_tool_runs_here_and_its_output_goes_to_the_session() -> None:
    @tool
    def find(number: int) -> str:
        """Find an order."""
        return f"Order {number} is on its way."

    rig = Rig(find)
    run = asyncio.create_task(rig.running.run())
    rig.model.calls_tool("find", '{"number": 7}')
    await asyncio.sleep(1)
    (item, response) = rig.model.sent
    assert isinstance(item, realtime.ItemCreate)
    assert item.item["output"] == "Order 7 is on its way."
    assert isinstance(response, realtime.ResponseCreate)
    assert [event.output for event in rig.of(ToolReturned)] == ["Order 7 is on its way."]
    rig.model.events.put_nowait(EndpointUnreachable("closed with 1000"))
    await run
    assert rig.ended.ended_by == "caller"


async def test_a_tool_that_runs_when_the_page_hangs_up_comes_to_its_end() -> None:
    done: list[int] = []

    @tool
    async def book() -> str:
        """Book."""
        await asyncio.sleep(5)
        done.append(1)
        return "Booked."

    rig = Rig(book)
    run = asyncio.create_task(rig.running.run())
    rig.model.calls_tool("book")
    await asyncio.sleep(1)
    rig.model.events.put_nowait(EndpointUnreachable("closed with 1000"))
    await run
    assert done == [1]
    assert rig.events.index(rig.of(ToolReturned)[0]) < rig.events.index(rig.ended)


async def test_the_agent_hangs_up_after_its_last_words_were_played() -> None:
    rig = Rig(hang_up)
    run = asyncio.create_task(rig.running.run())
    rig.model.tell("response.created", response={"id": "r"})
    rig.model.tell("response.output_audio_transcript.delta", response_id="r", item_id="b", delta="Goodbye.")
    rig.model.tell("output_audio_buffer.started", response_id="r")
    rig.model.calls_tool("hang_up")
    await asyncio.sleep(1)
    assert not run.done()
    rig.model.tell("output_audio_buffer.stopped", response_id="r")
    await asyncio.wait_for(run, HANG_SECONDS)
    assert rig.ended.ended_by == "agent"
    assert [turn.text for turn in rig.ended.transcript] == ["Goodbye."]


async def test_a_long_goodbye_is_heard_to_its_end() -> None:
    rig = Rig(hang_up)
    run = asyncio.create_task(rig.running.run())
    words = "Thank you for your call, the table is booked for seven, and we look forward to seeing you. Goodbye!"
    rig.model.tell("response.created", response={"id": "r"})
    rig.model.tell("response.output_audio_transcript.delta", response_id="r", item_id="b", delta=words)
    rig.model.tell("output_audio_buffer.started", response_id="r")
    rig.model.calls_tool("hang_up")
    await asyncio.sleep(8)
    assert not run.done()
    rig.model.tell("output_audio_buffer.stopped", response_id="r")
    await asyncio.wait_for(run, HANG_SECONDS)
    (turn,) = rig.ended.transcript
    assert (turn.heard_text, turn.interrupted) == (words, False)


async def test_while_the_goodbye_is_played_no_other_response_begins() -> None:
    rig = Rig(hang_up, barge_in=False)
    run = asyncio.create_task(rig.running.run())
    rig.model.tell("response.created", response={"id": "r"})
    rig.model.tell("response.output_audio_transcript.delta", response_id="r", item_id="b", delta="Thank you. Goodbye!")
    rig.model.tell("output_audio_buffer.started", response_id="r")
    rig.model.calls_tool("hang_up")
    await asyncio.sleep(1)
    rig.model.tell("input_audio_buffer.committed", item_id="u")
    rig.model.tell("response.created", response={"id": "r2"})  # the server answers by itself
    await asyncio.sleep(0.1)
    assert rig.model.sent[-1] == realtime.ResponseCancel(response_id="r2")
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


WORKSHOP = Agent(name="workshop", instructions="You mend.")


async def test_a_hand_off_changes_the_session_at_once() -> None:
    rig = Rig(handoffs=[WORKSHOP])
    run = asyncio.create_task(rig.running.run())
    rig.model.calls_tool("hand_off_to_workshop")
    await asyncio.sleep(0.1)
    (update,) = rig.model.sent
    assert isinstance(update, realtime.SessionUpdate)
    assert update.session["instructions"] == "You mend."
    rig.model.tell("session.updated", session={})
    await asyncio.sleep(0.1)
    assert rig.web.agent_name == "workshop"
    assert isinstance(rig.model.sent[-1], realtime.ResponseCreate)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def test_a_hand_off_that_the_server_refuses_does_not_happen() -> None:
    rig = Rig(handoffs=[WORKSHOP])
    run = asyncio.create_task(rig.running.run())
    rig.model.calls_tool("hand_off_to_workshop")
    await asyncio.sleep(0.1)
    (update,) = rig.model.sent
    assert isinstance(update, realtime.SessionUpdate)
    rig.model.tell("error", error={"code": "invalid_value", "param": "session.tools", "event_id": update.event_id})
    await asyncio.sleep(3)
    (returned,) = rig.of(ToolReturned)
    assert "not handed over (invalid_value)" in returned.output
    assert rig.web.agent_name == "shop"
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def test_a_muted_agent_stops_at_once() -> None:
    rig = Rig()
    run = asyncio.create_task(rig.running.run())
    words = "There are twelve bells left, in three colors, and each of them can be mounted at once."
    rig.model.tell("response.created", response={"id": "r"})
    rig.model.tell("response.output_audio_transcript.delta", response_id="r", item_id="b", delta=words)
    rig.model.tell("output_audio_buffer.started", response_id="r")
    rig.model.tell("response.done", response={"id": "r", "status": "completed", "output": [{"id": "b"}]})
    await asyncio.sleep(1)
    rig.call.mute()
    await asyncio.sleep(0.1)
    assert rig.model.sent == [realtime.OutputAudioClear()]
    rig.model.tell("output_audio_buffer.cleared", response_id="r")
    await asyncio.sleep(0.1)
    (ended,) = rig.of(TurnEnded)
    assert ended.turn.interrupted
    assert ended.turn.heard_ms == pytest.approx(1100, abs=20)
    assert words.startswith(ended.turn.heard_text)
    assert ended.turn.heard_text != words
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def test_an_agent_that_was_muted_before_the_page_came_is_still_muted() -> None:
    rig = Rig()
    rig.call.mute()
    run = asyncio.create_task(rig.running.run())
    await asyncio.sleep(0.1)
    rig.call.say("Your table is ready.")
    await asyncio.sleep(1)
    assert rig.call.muted
    assert rig.model.sent == []
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


@pytest.mark.parametrize("wanted", [True, False])
async def test_the_model_s_events_go_to_hooks_that_want_them(wanted: bool) -> None:
    rig = Rig(model_events=wanted)
    run = asyncio.create_task(rig.running.run())
    rig.model.tell("something.new", detail=7)
    await asyncio.sleep(0.1)
    found = [(event.type, event.data["detail"]) for event in rig.of(ModelEvent)]
    assert found == ([("something.new", 7)] if wanted else [])
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def test_user_code_speaks_in_the_call() -> None:
    rig = Rig()
    run = asyncio.create_task(rig.running.run())
    await asyncio.sleep(0.1)
    rig.call.say("Your table is ready.")
    await asyncio.sleep(0.1)
    assert "Your table is ready." in str(rig.model.sent)
    assert isinstance(rig.model.sent[-1], realtime.ResponseCreate)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    rig.call.say("Nobody is there any more.")
    assert rig.ended.ended_by == "error"


async def test_limits_of_time_and_money() -> None:
    rig = Rig(max_seconds=3)
    await rig.running.run()
    assert "longer than 3 s" in rig.ended.reason

    rig = Rig(max_cost=0)
    run = asyncio.create_task(rig.running.run())
    usage = {"input_tokens": 10, "input_token_details": {"audio_tokens": 10}}
    rig.model.tell("response.created", response={"id": "r"})
    rig.model.tell("response.done", response={"id": "r", "status": "completed", "usage": usage})
    await run
    assert (rig.ended.ended_by, rig.ended.reason) == ("agent", "the call reached its cost limit")


async def test_a_fault_of_ours_and_messages_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    run = asyncio.create_task(rig.running.run())
    rig.model.events.put_nowait(b"not JSON")
    await asyncio.sleep(0.1)
    assert len(rig.of(Trouble)) == 1

    def broken(self: WebConversation, raw: bytes, event: realtime.FromModel, now: float) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(WebConversation, "receive", broken)
    rig.model.tell("session.updated")
    await run
    assert rig.ended.reason == "internal fault: ZeroDivisionError"
