"""The conversation with the model: what user code asks of it, changes of the session, a model that gives nothing."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import pytest

from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.conversation import MAX_IMAGES, MAX_NOTES, MAX_OUTBOX, MODEL_STALLED_SECONDS, Conversation, Done
from phoneagent.bridge.history import Role
from phoneagent.bridge.policy import Floor
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.requests import Ending, RunTool, SessionChanged, Verdict
from phoneagent.bridge.responses import CREATED_SECONDS, MAX_WANTED
from phoneagent.events import MessageAdded, ToolCalled, ToolReturned
from phoneagent.protocol import realtime
from phoneagent.protocol.realtime import Dialect, Failure, Response
from tests.bridge.rig import Rig, function_call
from tests.protocol import sdk

SING = {"instructions": "Sing.", "tools": []}


def ask(rig: Rig, **options: object) -> bool:
    """As the shell does: what is asked for may be possible at once."""
    accepted = rig.bridge.conversation.respond(options)
    rig.bridge.handle_timer(rig.now)
    rig.flush()
    return accepted


def add(rig: Rig, text: str = "It rains.", role: Role = "system") -> bool:
    accepted = rig.bridge.conversation.add(text, role, rig.now)
    rig.flush()
    return accepted


def test_an_image_goes_to_the_model_and_its_text_to_the_record() -> None:
    rig = Rig()
    assert rig.bridge.conversation.add("What is this?", "user", rig.now, image="data:image/png;base64,AA==")
    assert rig.bridge.conversation.add("", "user", rig.now, image="data:image/png;base64,AA==")
    rig.flush()
    first, second = (message.item["content"] for message in rig.sent(realtime.ItemCreate))
    assert [part["type"] for part in first] == ["input_text", "input_image"]
    assert second == [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]
    assert [event.text for event in rig.events(MessageAdded)] == ["What is this? [image]", "[image]"]
    assert [note.text for note in rig.bridge.conversation.notes(lambda at: 0)] == ["What is this? [image]", "[image]"]


def test_only_some_images_wait_for_a_model() -> None:
    rig = Rig(connect=False)
    added = [rig.bridge.conversation.add("", "user", rig.now, image="data:image/png;base64,AA==") for _ in range(6)]
    assert added == [True] * MAX_IMAGES + [False] * (6 - MAX_IMAGES)
    assert rig.bridge.conversation.add("It rains.", "user", rig.now)


def options(rig: Rig) -> dict[str, object]:
    """The options of our newest create."""
    given = dict(rig.creates[-1].response or {})
    given.pop("metadata")
    return given


def kinds(rig: Rig) -> list[str]:
    return [type(message).__name__ for message in rig.to_model]


def test_an_item_joins_the_conversation_and_is_not_answered() -> None:
    rig = Rig()
    assert add(rig, "Hello?", "user")
    (sent,) = rig.sent(realtime.ItemCreate)
    assert sent.item == {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello?"}]}
    assert [note.item() for note in rig.bridge.conversation.notes(int)] == [sent.item]
    rig.talk(10)
    assert rig.creates == []


def test_an_item_waits_for_the_model_within_bounds() -> None:
    rig = Rig(connect=False)
    assert [add(rig) for _ in range(MAX_OUTBOX + 2)].count(False) == 2
    assert len(rig.bridge.conversation.notes(int)) == MAX_NOTES
    rig.connect()
    assert len(rig.sent(realtime.ItemCreate)) == MAX_OUTBOX


def test_a_response_has_its_own_instructions_and_tools_once() -> None:
    rig = Rig()
    assert ask(rig, **SING)
    assert options(rig) == SING
    rig.says(100, ours=True)
    rig.hear()
    rig.speech()
    rig.turn()
    assert len(rig.creates) == 1  # the server answers by itself
    assert rig.bridge.floor() is Floor.THINKING


def test_a_response_waits_for_the_one_that_runs() -> None:
    rig = Rig()
    rig.speech()
    rig.turn()
    rig.created("r1")
    assert ask(rig, **SING)
    assert rig.creates == []
    rig.done("r1", output=[])
    rig.wait(0)
    assert options(rig) == SING


def test_a_response_waits_until_the_caller_has_spoken() -> None:
    rig = Rig(server_answers=False)
    rig.speech()
    ask(rig, **SING)
    assert rig.creates == []
    rig.turn()
    assert [create.response for create in rig.creates] == [{**SING, "metadata": {"phoneagent": "1"}}]
    rig.says(100, ours=True)
    rig.talk(10)
    assert len(rig.creates) == 1  # it has answered the turn as well


def test_a_response_covers_what_a_tool_has_returned() -> None:
    rig = Rig(server_answers=False)
    ask(rig)
    rig.created(ours=True)
    rig.calls()
    ask(rig, **SING)
    rig.returns()
    rig.done()
    assert options(rig) == SING
    rig.says(100, "i2", "r2", ours=True)
    rig.talk(10)
    assert len(rig.creates) == 2


@pytest.mark.parametrize("status", ["failed", "completed"])
def test_a_response_that_fails_is_asked_for_again_as_it_was(status: str) -> None:
    rig = Rig()
    ask(rig, **SING)
    rig.created(ours=True)
    rig.done(status=status, output=[])
    assert len(rig.creates) == 2
    assert options(rig) == SING


def test_a_response_that_never_begins_is_asked_for_again_as_it_was() -> None:
    rig = Rig()
    ask(rig, **SING)
    rig.talk(6)
    assert len(rig.creates) == 2
    assert options(rig) == SING


def test_what_may_wait_is_bounded() -> None:
    rig = Rig(connect=False)
    assert [ask(rig) for _ in range(MAX_WANTED + 1)].count(False) == 1


def test_nothing_is_asked_of_a_call_that_ends() -> None:
    rig = Rig()
    rig.hang_up(goodbye=False)
    assert not ask(rig, **SING)
    rig.stop()
    add(rig)
    assert rig.creates == []
    rig.assert_over("agent")


# --- turns by hand ---


def manual() -> Rig:
    return Rig(manual_turns=True, server_answers=False)


def test_a_turn_by_hand_is_the_audio_between_clear_and_commit() -> None:
    rig = manual()
    rig.media(timestamp=0)
    assert rig.bridge.push_to_talk.clear()
    rig.media(timestamp=20)
    assert rig.bridge.push_to_talk.commit()
    rig.flush()
    assert kinds(rig) == ["AudioAppend", "AudioClear", "AudioAppend", "AudioCommit"]


def test_what_waits_for_the_model_belongs_to_the_turn() -> None:
    rig = Rig(connect=False, manual_turns=True, server_answers=False)
    rig.media(timestamp=0)
    rig.bridge.push_to_talk.clear()
    rig.media(timestamp=20)
    rig.bridge.push_to_talk.commit()
    rig.bridge.conversation.respond({})
    rig.media(timestamp=40)
    rig.connect()
    assert kinds(rig) == ["AudioClear", "AudioAppend", "AudioCommit", "ResponseCreate", "AudioAppend"]


def test_a_turn_by_hand_is_answered_only_on_request() -> None:
    rig = manual()
    rig.media()
    rig.bridge.push_to_talk.commit()
    rig.flush()
    rig.model(realtime.Committed(item_id="u1"))
    rig.talk(10)
    assert rig.creates == []
    ask(rig)
    assert len(rig.creates) == 1
    rig.says(100, ours=True)
    rig.talk(5)
    assert len(rig.creates) == 1


def test_an_empty_turn_by_hand_is_refused_and_the_call_goes_on() -> None:
    rig = manual()
    rig.bridge.push_to_talk.commit()
    rig.flush()
    rig.error("input_audio_buffer_commit_empty")
    assert rig.troubles == ["the model refused an event: input_audio_buffer_commit_empty"]
    assert rig.ended is None


def test_turns_by_hand_are_bounded() -> None:
    rig = Rig(connect=False, manual_turns=True, server_answers=False)
    assert [rig.bridge.push_to_talk.commit() for _ in range(MAX_OUTBOX + 1)].count(False) == 1
    assert not rig.bridge.push_to_talk.clear()


# --- by itself, as a chat uses it ---


class Bench:
    """A conversation that is connected at 100 s."""

    def __init__(self, *, spoken: bool = True) -> None:
        self.requests: list[Any] = []
        self.reporter = Reporter("CA1", CallClock())
        self.conversation = Conversation(self.requests.append, self.reporter, spoken=spoken)
        self.conversation.connect(100.0)

    @property
    def sent(self) -> deque[realtime.ToModel]:
        return self.conversation.outbox

    @property
    def told(self) -> list[type]:
        return [type(event) for event in self.reporter.events]

    def kinds(self) -> list[str]:
        return [type(message).__name__ for message in self.sent]

    def creates(self, now: float, id: str = "r1") -> None:
        """The model begins the response that was asked for."""
        self.conversation.move_on(now)
        self.conversation.alive(now)
        self.conversation.response_created(Response(id=id), now)

    def error(self, **fields: Any) -> Verdict | None:
        return self.conversation.receive(realtime.Error(error=Failure(**fields)), 110.0)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_tool_is_run_told_and_answered(bench: Bench) -> None:
    bench.creates(100.0)
    bench.conversation.receive(realtime.OutputItemDone(item=function_call("c1")), 101.0)
    done = Response(id="r1", status="completed", output=[function_call("c1")])
    assert bench.conversation.response_done(done, 102.0) == Done(Ending.SAID)
    assert bench.requests == [RunTool("c1", "look_up", '{"a": 1}')]
    bench.conversation.move_on(102.0)
    assert bench.kinds() == []
    bench.conversation.tool_returned("c1", "42", 103.0)
    bench.conversation.tool_returned("c1", "43", 103.0)
    bench.conversation.move_on(103.0)
    assert bench.kinds() == ["ItemCreate", "ResponseCreate"]
    assert bench.told == [ToolCalled, ToolReturned]


def test_half_a_response_runs_no_tool(bench: Bench) -> None:
    bench.creates(100.0)
    bench.conversation.response_done(Response(id="r1", status="cancelled", output=[function_call("c1")]), 102.0)
    assert bench.requests == []


def test_after_the_end_nothing_is_taken_and_a_tool_is_only_told(bench: Bench) -> None:
    bench.creates(100.0)
    bench.conversation.receive(realtime.OutputItemDone(item=function_call("c1")), 101.0)
    bench.conversation.end()
    bench.conversation.tool_returned("c1", "42", 103.0)
    assert not bench.conversation.say("Hello.")
    assert not bench.conversation.add("It rains.", "system", 103.0)
    assert not bench.conversation.respond({})
    assert bench.kinds() == []
    assert bench.told == [ToolCalled, ToolReturned]


def test_a_message_is_told_once_it_is_taken(bench: Bench) -> None:
    assert bench.conversation.add("It rains.", "system", 101.0)
    assert bench.told == [MessageAdded]
    bench.sent.extend(realtime.AudioCommit() for _ in range(MAX_OUTBOX))
    assert not bench.conversation.add("It rains.", "system", 101.0)
    assert bench.told == [MessageAdded]


def test_a_response_that_fails_is_told_with_its_reason(bench: Bench) -> None:
    troubles = []
    for details in (Failure(code="server_error", type="x"), Failure(type="server_error"), Failure()):
        bench.creates(100.0)
        failed = Response(id="r1", status="failed", status_details=realtime.StatusDetails(error=details))
        troubles.append(bench.conversation.response_done(failed, 101.0).trouble)
    assert troubles == ["response failed: server_error"] * 2 + ["response failed: no reason given"]


# --- changes of the session ---


def test_a_change_of_the_session_is_what_the_service_takes(bench: Bench) -> None:
    session = {"type": "realtime", "instructions": "x", "tools": [], "audio": {"output": {"voice": "cedar"}}}
    change_id = bench.conversation.change_session(session)
    (event,) = [json.loads(realtime.encode(message, Dialect.GA)) for message in bench.sent]
    sdk.check(event, Dialect.GA)
    assert event["event_id"] == change_id
    assert event["session"]["instructions"] == "x"


def test_changes_are_answered_in_order(bench: Bench) -> None:
    first, second = (bench.conversation.change_session({"type": "realtime"}) for _ in range(2))
    for _ in range(3):
        assert bench.conversation.receive(realtime.SessionUpdated(session={}), 101.0) is None
    assert bench.requests == [SessionChanged(first, None), SessionChanged(second, None)]


def test_a_change_is_refused_by_its_id(bench: Bench) -> None:
    first, second = (bench.conversation.change_session({"type": "realtime"}) for _ in range(2))
    verdict = bench.error(code="invalid_value", event_id=second, param="session.audio")
    assert verdict == Verdict("trouble", "the model refused an event: invalid_value session.audio")
    bench.conversation.receive(realtime.SessionUpdated(session={}), 101.0)
    assert bench.requests == [SessionChanged(second, "invalid_value"), SessionChanged(first, None)]


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"type": "invalid_request_error"}, "invalid_request_error"),
        ({"code": "bad", "type": "x"}, "bad"),
        ({}, "error"),
    ],
)
def test_an_error_without_an_id_that_names_the_session_refuses_the_oldest(
    bench: Bench, fields: dict[str, str], refusal: str
) -> None:
    first = bench.conversation.change_session({"type": "realtime"})
    bench.conversation.change_session({"type": "realtime"})
    bench.error(param="session.tools", **fields)
    assert bench.requests == [SessionChanged(first, refusal)]


@pytest.mark.parametrize("fields", [{"param": "item"}, {}, {"event_id": "create_1", "param": "session"}])
def test_other_errors_refuse_no_change(bench: Bench, fields: dict[str, str]) -> None:
    bench.conversation.change_session({"type": "realtime"})
    bench.error(code="invalid_value", **fields)
    assert bench.requests == []


def test_an_error_that_names_the_session_needs_a_change_to_refuse(bench: Bench) -> None:
    bench.error(code="invalid_value", param="session.tools")
    assert bench.requests == []


def test_changes_of_a_session_that_is_gone_are_void(bench: Bench) -> None:
    change_id = bench.conversation.change_session({"type": "realtime"})
    bench.conversation.add("It rains.", "system", 101.0)
    bench.conversation.opened()
    assert bench.requests == [SessionChanged(change_id, "the connection was lost")]
    assert bench.kinds() == ["ItemCreate"]
    bench.conversation.receive(realtime.SessionUpdated(session={}), 102.0)
    assert len(bench.requests) == 1


# --- a model that gives nothing ---


def test_a_written_response_of_which_nothing_comes_is_given_up_unless_a_tool_runs() -> None:
    bench = Bench(spoken=False)
    bench.creates(100.0)
    due = 100.0 + MODEL_STALLED_SECONDS
    assert bench.conversation.get_timer() == due
    assert bench.conversation.handle_timer(due - 0.1) is None
    assert bench.conversation.handle_timer(due) == Verdict("renew", "a response stalled for 12 s")
    bench.conversation.receive(realtime.OutputItemDone(item=function_call("c1")), 101.0)
    assert bench.conversation.get_timer() is None
    assert bench.conversation.handle_timer(due) is None


def test_a_spoken_one_is_watched_by_what_the_caller_hears(bench: Bench) -> None:
    bench.creates(100.0)
    assert bench.conversation.get_timer() is None


def test_without_a_session_nothing_is_waited_for(bench: Bench) -> None:
    bench.creates(100.0)
    bench.conversation.disconnect()
    assert bench.conversation.get_timer() is None
    assert bench.conversation.handle_timer(1e9) is None
    assert bench.conversation.move_on(1e9) is None


def test_a_model_that_begins_no_response_is_given_up(bench: Bench) -> None:
    bench.conversation.say("Hello.")
    verdicts = []
    for number in range(3):
        now = 100.0 + number * CREATED_SECONDS
        bench.conversation.handle_timer(now)
        verdicts.append(bench.conversation.move_on(now))
    assert verdicts == [None, None, Verdict("renew", "the model did not answer repeated requests for a response")]


def test_in_a_closing_that_ends_in_time_no_model_is_given_up(bench: Bench) -> None:
    bench.creates(100.0)
    bench.conversation.close(goodbye=True, timed=True)
    assert bench.conversation.get_timer() is None
    assert bench.conversation.handle_timer(1e6) is None
    bench.conversation.response_done(Response(id="r1", status="completed"), 101.0)
    for number in range(4):
        bench.conversation.handle_timer(102.0 + number * CREATED_SECONDS)
        assert bench.conversation.move_on(102.0 + number * CREATED_SECONDS) is None


# --- the goodbye ---


def test_a_goodbye_is_to_come_until_it_is_begun(bench: Bench) -> None:
    bench.conversation.close(goodbye=True)
    assert bench.conversation.more_to_come
    bench.creates(100.0)
    assert bench.conversation.goodbye_due
    assert bench.conversation.output("r1", 101.0)
    assert not bench.conversation.goodbye_due
    assert bench.conversation.more_to_come
    bench.conversation.response_done(Response(id="r1", status="completed"), 102.0)
    assert not bench.conversation.more_to_come


def test_a_goodbye_that_fails_twice_is_not_waited_for(bench: Bench) -> None:
    bench.conversation.close(goodbye=True)
    for due in (True, False):
        bench.creates(100.0)
        bench.conversation.response_done(Response(id="r1", status="completed"), 102.0)
        assert bench.conversation.goodbye_due is due


def test_words_and_a_tool_in_one_response_are_a_parting(bench: Bench) -> None:
    bench.creates(100.0)
    bench.conversation.output("r1", 101.0)
    assert not bench.conversation.parted
    bench.conversation.receive(realtime.OutputItemDone(item=function_call("c1")), 101.0)
    assert bench.conversation.parted


# --- another session ---


def test_the_past_is_told_before_what_waits_and_items_once(bench: Bench) -> None:
    bench.conversation.add("It rains.", "system", 101.0)
    bench.sent.append(realtime.AudioCommit())
    past = [{"type": "message", "role": "user", "content": []}]
    bench.conversation.tell_past(past)
    assert list(bench.sent) == [realtime.ItemCreate(item=past[0]), realtime.AudioCommit()]
    (note,) = bench.conversation.notes(round)
    assert (note.role, note.text, note.at_ms) == ("system", "It rains.", 101)


def test_a_new_session_is_given_nothing_of_the_one_before(bench: Bench) -> None:
    bench.conversation.say("Hello.")
    bench.conversation.move_on(100.0)
    assert bench.kinds() == ["ItemCreate", "ResponseCreate"]
    bench.conversation.new_session()
    assert bench.kinds() == []
    assert not bench.conversation.connected
    bench.conversation.connect(101.0)
    bench.conversation.move_on(101.0)
    assert bench.kinds() == ["ItemCreate", "ResponseCreate"]
