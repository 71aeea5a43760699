"""The conversation of a web call, from the events of its side-band socket."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from phoneagent.billing.prices import PRICES
from phoneagent.bridge.scripts import usual_ms
from phoneagent.bridge.web_call import (
    MAX_OPEN_TURNS,
    MAX_PARTING_SECONDS,
    PARTING_SECONDS,
    REST_MS,
    SLOWNESS,
    WebConversation,
)
from phoneagent.events import CallEnded, CallerSpoke, RateLimitsUpdated, ToolCalled, Turn, TurnEnded, UsageReported
from phoneagent.protocol import realtime

HEARD = "conversation.item.input_audio_transcription"


class Rig:
    def __init__(self, greeting: str | None = None, **options: Any) -> None:
        self.web = WebConversation(
            "WC1", model="gpt-realtime-2.1", recognizer="gpt-transcribe", prices=PRICES, greeting=greeting, **options
        )
        self.web.agent_name = "shop"
        self.web.start(100.0)

    def tell(self, kind: str, at: float, **fields: Any) -> None:
        raw = json.dumps({"type": kind, **fields}).encode()
        self.web.receive(raw, realtime.decode(raw), 100.0 + at)

    def says(self, item: str, text: str, response: str, at: float) -> None:
        self.tell("response.created", at, response={"id": response})
        self.tell("response.output_audio_transcript.delta", at, response_id=response, item_id=item, delta=text)
        self.tell("response.done", at, response={"id": response, "status": "completed", "output": [{"id": item}]})

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.web.reporter.events if isinstance(event, kind)]

    @property
    def turns(self) -> list[Turn]:
        return [event.turn for event in self.of(TurnEnded)]

    def sent(self) -> list[realtime.ToModel]:
        found = []
        while (event := self.web.chat.next_to_model()) is not None:
            found.append(event)
        return found


def test_the_greeting_is_asked_for_at_once() -> None:
    rig = Rig(greeting="Hello!")
    assert any(isinstance(event, realtime.ResponseCreate) for event in rig.sent())


def test_turns_of_both_sides_have_the_times_that_the_server_tells() -> None:
    rig = Rig()
    rig.tell("input_audio_buffer.speech_started", 1, item_id="a", audio_start_ms=0)
    rig.tell("input_audio_buffer.speech_stopped", 2, item_id="a", audio_end_ms=0)
    rig.says("b", "Good day.", "r1", 2.1)
    rig.tell("output_audio_buffer.started", 2.5, response_id="r1")
    rig.tell(f"{HEARD}.completed", 3, item_id="a", transcript="Hello. ", usage={"type": "duration", "seconds": 1})
    rig.tell("output_audio_buffer.stopped", 4.5, response_id="r1")
    caller, agent = rig.turns
    assert (caller.role, caller.text, caller.start_ms, caller.end_ms) == ("caller", "Hello.", 1000, 2000)
    assert (agent.role, agent.text, agent.heard_text, agent.agent) == ("agent", "Good day.", "Good day.", "shop")
    assert (agent.start_ms, agent.end_ms, agent.interrupted) == (2500, 4500, False)
    assert len(rig.of(CallerSpoke)) == 1


def test_of_an_answer_that_was_cut_only_a_part_was_heard() -> None:
    rig = Rig()
    text = "One two three four five six seven eight nine ten."
    rig.says("b", text, "r1", 0)
    rig.tell("output_audio_buffer.started", 1, response_id="r1")
    rig.tell("output_audio_buffer.cleared", 2, response_id="r1")
    (turn,) = rig.turns
    assert turn.interrupted
    assert 0 < len(turn.heard_text) < len(text)
    assert text.startswith(turn.heard_text)
    assert turn.heard_ms == 1000
    assert turn.said_ms >= 1000 + REST_MS


@pytest.mark.parametrize("text", ["नमस्ते, मैं आपकी क्या मदद कर सकता हूँ?", "Vielen Dank! 👍🏽 Bis bald, e\u0301!"])
def test_a_character_of_several_code_points_is_cut_like_any_other(text: str) -> None:
    rig = Rig()
    rig.says("b", text, "r1", 0)
    rig.tell("output_audio_buffer.started", 1, response_id="r1")
    rig.tell("output_audio_buffer.cleared", 2, response_id="r1")
    (turn,) = rig.turns
    assert 0 < len(turn.heard_text) < len(text)


def test_what_waited_to_be_played_when_it_was_cleared_was_not_heard() -> None:
    rig = Rig()
    rig.says("b", "One moment, please, I look it up.", "r1", 0)
    rig.tell("output_audio_buffer.started", 0, response_id="r1")
    rig.says("c", "There are twelve left.", "r2", 1)
    rig.tell("output_audio_buffer.cleared", 1.5, response_id="r1")
    rig.tell("response.output_audio_transcript.delta", 1.6, response_id="r2", item_id="c", delta=" Late.")
    assert [(turn.item_id, turn.heard_ms, turn.interrupted) for turn in rig.turns] == [
        ("b", 1500, True),
        ("c", 0, True),
    ]
    assert rig.turns[1].heard_text == ""
    assert not rig.web.playing


def test_what_was_canceled_before_it_was_played_was_not_heard() -> None:
    rig = Rig()
    rig.tell("response.created", 0, response={"id": "r1"})
    rig.tell("response.output_audio_transcript.delta", 0, response_id="r1", item_id="b", delta="There are")
    rig.tell("response.done", 1, response={"id": "r1", "status": "cancelled", "output": [{"id": "b"}]})
    rig.web.end("caller", "over", 160.0)
    (turn,) = rig.turns
    assert (turn.text, turn.heard_text, turn.heard_ms) == ("There are", "", 0)


def test_words_are_those_of_the_agent_that_began_them() -> None:
    rig = Rig()
    rig.says("b", "I hand you over.", "r1", 0)
    rig.tell("output_audio_buffer.started", 0.1, response_id="r1")
    rig.web.agent_name = "workshop"
    rig.tell("output_audio_buffer.stopped", 2, response_id="r1")
    rig.says("c", "The workshop, hello.", "r2", 3)
    rig.tell("output_audio_buffer.started", 3, response_id="r2")
    rig.tell("output_audio_buffer.stopped", 4, response_id="r2")
    assert [turn.agent for turn in rig.turns] == ["shop", "workshop"]


def hung_up(text: str, *, played: bool = True) -> Rig:
    """Return a call whose agent has said that, and has hung up a second later."""
    rig = Rig()
    rig.says("b", text, "r1", 0)
    if played:
        rig.tell("output_audio_buffer.started", 0, response_id="r1")
    rig.web.chat.hang_up(101.0, goodbye=False)
    rig.web.handle_timer(101.0)
    return rig


@pytest.mark.parametrize("played", [True, False])  # its beginning may be reported late
def test_a_call_lasts_until_the_last_words_were_played(played: bool) -> None:
    text = "Thank you for calling. " * 6
    rig = hung_up(text, played=played)
    assert rig.web.chat.over
    rig.web.handle_timer(100 + usual_ms(text) / 1000)  # a voice may be slow
    assert not rig.web.over
    rig.tell("output_audio_buffer.stopped", 9, response_id="r1")
    rig.web.handle_timer(109.0)
    assert rig.web.over
    assert not rig.turns[0].interrupted


@pytest.mark.parametrize("text", ["Goodbye.", "Thank you for calling. " * 6, "Thank you for calling. " * 600])
def test_where_the_end_of_the_last_words_is_not_reported_it_is_estimated(text: str) -> None:
    rig = hung_up(text)
    leave_at = rig.web.get_timer()
    assert leave_at is not None
    expected = SLOWNESS * usual_ms(text.strip()) / 1000 - 1
    assert leave_at - 101 == pytest.approx(min(max(0, expected) + PARTING_SECONDS, MAX_PARTING_SECONDS), abs=0.2)
    rig.web.handle_timer(leave_at - 0.01)
    assert not rig.web.over
    rig.web.handle_timer(leave_at)
    assert rig.web.over


def test_without_last_words_a_call_ends_at_once() -> None:
    rig = Rig()
    rig.web.chat.hang_up(101.0, goodbye=False)
    rig.web.handle_timer(101.0)
    assert rig.web.over


def test_the_provider_s_rate_limits_are_reported() -> None:
    rig = Rig()
    limit = {"name": "tokens", "limit": 40_000, "remaining": 35_000, "reset_seconds": 7.5}
    rig.tell("rate_limits.updated", 1, rate_limits=[limit])
    (found,) = rig.of(RateLimitsUpdated)
    assert (found.model, found.limits[0].remaining) == ("gpt-realtime-2.1", 35_000)


def test_what_was_not_played_when_the_call_ended_was_not_heard() -> None:
    rig = Rig()
    rig.tell("input_audio_buffer.speech_started", 1, item_id="a", audio_start_ms=0)
    rig.tell(f"{HEARD}.failed", 2, item_id="a")
    rig.says("b", "Good day to you and yours.", "r1", 2)
    rig.tell("output_audio_buffer.started", 3, response_id="r1")
    rig.web.end("caller", "over", 103.1)
    (ended,) = rig.of(CallEnded)
    assert [(turn.role, turn.text) for turn in ended.transcript] == [
        ("caller", ""),
        ("agent", "Good day to you and yours."),
    ]
    assert ended.transcript[1].interrupted
    assert ended.transcript[1].heard_ms == 100


def test_a_tool_is_reported_and_asked_for() -> None:
    rig = Rig()
    call = {
        "id": "f",
        "type": "function_call",
        "call_id": "c1",
        "name": "find",
        "arguments": "{}",
        "status": "completed",
    }
    rig.tell("response.created", 0, response={"id": "r1"})
    rig.tell("response.output_item.done", 0.1, response_id="r1", item=call)
    rig.tell("response.done", 0.2, response={"id": "r1", "status": "completed", "output": [call]})
    (asked,) = list(rig.web.chat.happenings())[:1]
    assert asked.name == "find"  # type: ignore[union-attr]
    assert [event.name for event in rig.of(ToolCalled)] == ["find"]
    rig.web.chat.conversation.tool_returned("c1", "{}", 101.0)
    rig.web.chat.move_on(101.0)
    kinds = [type(event) for event in rig.sent()]
    assert kinds == [realtime.ItemCreate, realtime.ResponseCreate]


def test_the_cost_and_its_limit() -> None:
    rig = Rig(max_cost=Decimal("0.01"))
    used = {"input_tokens": 100, "output_tokens": 10, "input_token_details": {"audio_tokens": 100}}
    rig.tell("response.created", 0, response={"id": "r1"})
    rig.tell("response.done", 1, response={"id": "r1", "status": "completed", "usage": used})
    before = rig.web.over_budget
    rig.tell(f"{HEARD}.completed", 2, item_id="a", transcript="", usage={"type": "duration", "seconds": 600})
    assert (before, rig.web.over_budget) == (False, True)
    assert [event.source for event in rig.of(UsageReported)] == ["response", "transcription"]
    assert rig.turns == []


def test_turns_that_never_end_cost_no_memory() -> None:
    rig = Rig()
    for n in range(300):
        rig.tell("input_audio_buffer.speech_started", n, item_id=f"a{n}")
        rig.tell("response.output_audio_transcript.delta", n, response_id=f"r{n}", item_id=f"b{n}", delta="x")
    assert len(rig.turns) == 2 * (300 - MAX_OPEN_TURNS)


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "output_audio_buffer.started"},
        {"type": "output_audio_buffer.stopped", "response_id": None},
        {"type": "output_audio_buffer.cleared", "response_id": [1]},
        {"type": "input_audio_buffer.speech_stopped", "item_id": "nobody"},
        {"type": f"{HEARD}.completed", "item_id": "nobody", "transcript": "Hm."},
        {"type": f"{HEARD}.failed"},
        {"type": "session.created", "session": {}},
        {"type": "something.new"},
    ],
)
def test_odd_events_break_nothing(fields: dict[str, Any]) -> None:
    rig = Rig()
    rig.tell(at=1, kind=fields.pop("type"), **fields)
    rig.says("b", "Hello.", "r1", 2)
    rig.tell("output_audio_buffer.stopped", 3, response_id="r1")
    assert rig.turns[-1].text == "Hello."


def test_a_simulated_session_is_free_whatever_recognizer_it_names() -> None:
    web = WebConversation("WC1", model="simulated", recognizer="gpt-live-transcribe", prices=PRICES, greeting=None)
    web.start(0.0)
    used = {"type": "duration", "seconds": 60}
    web.receive(b"{}", realtime.InputTranscript(item_id="u1", transcript="Hi", usage=used), 1.0)
    web.receive(b"{}", realtime.ResponseDone(response=realtime.Response(id="r1", status="completed")), 1.0)
    assert web.cost is not None
    assert (web.cost.usd, web.cost.at_least) == (0, False)
