"""The signs of each fact: what servers leave out, say otherwise or say twice, and what the call makes of it."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from phoneagent.bridge.history import Past, ToolRun
from phoneagent.bridge.names import MAX_NAMES
from phoneagent.bridge.requests import RunTool, State
from phoneagent.bridge.responses import ResponseGate
from phoneagent.bridge.signs import (
    DONE_SECONDS,
    FAILED_SECONDS,
    MAX_REMEMBERED,
    UNCLEAR_SECONDS,
    Signs,
)
from phoneagent.events import ToolCalled, TurnEnded
from phoneagent.protocol import carrier, realtime
from phoneagent.protocol.realtime import (
    ArgumentsDone,
    AudioDelta,
    AudioDone,
    Committed,
    Failure,
    InputTranscript,
    Item,
    ItemAdded,
    ItemDone,
    OutputItemAdded,
    OutputItemDone,
    Response,
    ResponseCreated,
    ResponseDone,
    SpeechStarted,
    SpeechStopped,
    StatusDetails,
    Unknown,
)
from tests.bridge.rig import Rig, function_call, ulaw

WORDS = "A table for two, please."


@pytest.fixture
def rig() -> Rig:
    return Rig()


def heard(rig: Rig) -> list[tuple[str, str]]:
    """The turns that are over: who spoke, and the text."""
    return [(event.turn.role, event.turn.text) for event in rig.events(TurnEnded)]


def callers(rig: Rig) -> list[str]:
    return [text for role, text in heard(rig) if role == "caller"]


class Bench:
    """The signs with their gate; `read` gives what the bridge would get, and does what it does with a response."""

    def __init__(self) -> None:
        self.gate = ResponseGate(deque())
        self.signs = Signs(self.gate)
        self.now = 10.0

    def take(self, event: realtime.FromModel) -> None:
        match event:
            case ResponseCreated(response=response):
                self.gate.created(response, self.now)
            case ResponseDone(response=response):
                self.gate.done(response, self.now)
            case AudioDelta(response_id=response_id):
                self.gate.audio(response_id)

    def read(self, *events: realtime.FromModel) -> list[str]:
        taken = []
        for event in events:
            for each in self.signs.read(event, self.now):
                self.take(each)
                taken.append(type(each).__name__)
        return taken

    def overdue(self) -> list[realtime.FromModel]:
        taken = []
        for event in self.signs.overdue(self.now):
            self.take(event)
            taken.append(event)
        return taken


def created(id: str | None = "r1") -> ResponseCreated:
    return ResponseCreated(response=Response(id=id))


def done(id: str | None = "r1", status: str | None = "completed", **fields: Any) -> ResponseDone:
    return ResponseDone(response=Response(id=id, status=status, **fields))


def audio(response: str = "r1", item: str = "i1") -> AudioDelta:
    return AudioDelta(response_id=response, item_id=item, delta=ulaw(20))


# --- a response is active ---


def test_output_of_a_response_that_was_not_announced_begins_it(rig: Rig) -> None:
    rig.say("One moment.")
    rig.audio(100, "i1", "r1")
    rig.model(AudioDone(response_id="r1", item_id="i1"))
    rig.done("r1")
    assert len(rig.creates) == 1
    rig.wait(0.2)
    rig.hear()
    assert [role for role, _ in heard(rig)] == ["agent"]


def test_a_response_that_was_announced_twice_is_one(rig: Rig) -> None:
    rig.audio(100, "i1", "r1")
    rig.created("r1")
    rig.done("r1")
    rig.wait(20)
    assert rig.creates == []


def test_an_announcement_without_an_id_is_of_the_response_that_follows(rig: Rig) -> None:
    rig.model(created(None))
    rig.audio(100, "i1", "r1")
    rig.done("r1")
    rig.wait(20)
    assert rig.creates == []


def test_what_comes_without_any_id_belongs_to_the_response_that_is_active(rig: Rig) -> None:
    rig.model(created(None))
    rig.audio(100, "", "")
    rig.audio(100, "", "")
    rig.done("r1")
    rig.wait(0.3)
    rig.hear()
    assert rig.media_ms() == 200
    assert len(heard(rig)) == 1


def test_audio_without_any_id_answers_what_was_asked(rig: Rig) -> None:
    rig.say("One moment.")
    rig.audio(100, "", "")
    rig.model(done(None))
    rig.wait(20)
    assert len(rig.creates) == 1


def test_audio_without_an_id_that_comes_late_belongs_to_the_response_before(rig: Rig) -> None:
    rig.says(100, ours=False)
    rig.audio(100, "i1", "")
    rig.wait(20)
    assert rig.creates == []
    assert rig.media_ms() == 200


def test_cancelled_audio_without_an_id_is_not_heard(rig: Rig) -> None:
    rig.model(created(None))
    rig.interrupt()
    rig.audio(100, "", "")
    assert rig.media_ms() == 0


def test_the_next_response_ends_the_one_before(rig: Rig) -> None:
    rig.created("r1")
    rig.audio(100, "i1", "r1")
    rig.created("r2")
    rig.audio(100, "i2", "r2")
    rig.done("r2")
    rig.wait(0.3)
    rig.hear()
    assert len(heard(rig)) == 2
    rig.wait(20)
    assert rig.creates == []


def test_a_failure_is_the_first_sign_of_its_response(rig: Rig) -> None:
    rig.say("One moment.")
    rig.done("r1", "failed", "server_error")
    assert len(rig.creates) == 2


def test_a_cancelled_response_that_nothing_had_announced_is_none(rig: Rig) -> None:
    rig.say("One moment.")
    rig.done("r9", "cancelled")
    assert rig.bridge.responses.state is State.REQUESTED
    rig.heard("r1")
    assert len(rig.creates) == 1


def test_a_response_that_is_active_unseen_is_learned_from_its_output(rig: Rig) -> None:
    rig.say("One moment.")
    rig.error("conversation_already_has_active_response", "create_1")
    rig.audio(100, "i9", "r9")
    rig.done("r9")
    assert len(rig.creates) == 2


# --- a response is over ---


@pytest.mark.parametrize("id", [None, "other"])
def test_an_end_that_names_no_known_response_ends_the_active_one(rig: Rig, id: str | None) -> None:
    rig.created("r1")
    rig.audio()
    rig.model(done(id))
    assert rig.bridge.responses.state is State.NONE


def test_an_end_without_a_status_is_complete_unless_it_has_an_error(rig: Rig) -> None:
    rig.created("r1")
    rig.model(ResponseDone(response=Response(id="r1", output=[function_call()])))
    assert [request.call_id for request in rig.asked if isinstance(request, RunTool)] == ["c1"]
    rig.returns()
    rig.created("r2", ours=True)
    details = StatusDetails(error=Failure(code="server_error"))
    rig.model(ResponseDone(response=Response(id="r2", status_details=details, output=[function_call("c2")])))
    assert len(rig.events(ToolCalled)) == 1


@pytest.mark.parametrize("status", ["completed", "failed", "incomplete", "cancelled"])
def test_an_end_may_be_an_event_of_its_own(rig: Rig, status: str) -> None:
    rig.created("r1")
    rig.audio()
    rig.model(Unknown(f"response.{status}"))
    assert rig.bridge.responses.state is not State.ACTIVE
    rig.model(Unknown(f"response.{status}"))  # with nothing active it means nothing


def test_an_error_after_which_nothing_comes_is_the_end_of_the_response(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.error("inference_failed")
    rig.wait(FAILED_SECONDS - 0.1)
    assert rig.creates == []
    rig.wait(0.2)
    assert len(rig.creates) == 1
    rig.done("r1", "failed", "inference_failed")  # after all
    rig.heard("r2")
    assert len(rig.creates) == 1


def test_an_error_after_which_the_response_goes_on_is_not_its_end(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.audio(100)
    rig.error("something_else")
    rig.audio(100)
    rig.wait(2)
    rig.audio(100)
    rig.done("r1")
    rig.wait(10)
    assert rig.creates == []


@pytest.mark.parametrize("code", ["input_audio_buffer_commit_empty", "item_delete_invalid_item_id"])
def test_an_error_of_a_request_is_not_the_end_of_the_response(rig: Rig, code: str) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.error(code)
    rig.wait(5)
    assert rig.creates == []


def test_an_error_while_a_response_is_requested_shortens_the_wait(rig: Rig) -> None:
    rig.say("One moment.")
    rig.error("overloaded")
    rig.wait(FAILED_SECONDS + 0.1)
    assert len(rig.creates) == 2
    rig.heard("r1")
    rig.error("overloaded")  # nothing is requested now
    rig.wait(10)
    assert len(rig.creates) == 2


def test_a_response_whose_items_are_done_is_over_when_nothing_follows(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.audio(100)
    rig.audio_done()
    rig.model(Unknown("response.content_part.done"))
    rig.wait(DONE_SECONDS - 0.1)
    assert rig.bridge.responses.state is State.ACTIVE
    rig.wait(0.2)
    assert rig.bridge.responses.state is State.NONE
    assert rig.creates == []


@pytest.mark.parametrize(
    "more", [Unknown("response.content_part.added"), Unknown("response.mcp_call.in_progress"), audio("r1", "i2")]
)
def test_a_response_that_goes_on_after_an_item_is_not_over(rig: Rig, more: realtime.FromModel) -> None:
    rig.created("r1")
    rig.audio(100)
    rig.audio_done()
    rig.wait(DONE_SECONDS - 0.5)
    rig.model(more)
    rig.wait(DONE_SECONDS)
    assert rig.bridge.responses.state is State.ACTIVE


def test_audio_that_comes_after_its_end_was_reported_is_heard(rig: Rig) -> None:
    rig.created("r1")
    rig.audio(100)
    rig.audio_done()
    rig.audio(100)
    rig.wait(DONE_SECONDS + 1)
    assert rig.bridge.responses.state is State.ACTIVE
    assert rig.media_ms() == 200


# --- tool calls ---


def runs(rig: Rig) -> list[tuple[str, str, str]]:
    return [(each.call_id, each.name, each.arguments) for each in rig.asked if isinstance(each, RunTool)]


def test_a_call_of_which_only_the_arguments_were_announced_runs_once_the_response_is_complete(rig: Rig) -> None:
    rig.created("r1")
    item = Item(id="f1", type="function_call", status="in_progress", call_id="c1", name="look_up")
    rig.model(OutputItemAdded(item=item, response_id="r1"))
    rig.model(ArgumentsDone(response_id="r1", item_id="f1", arguments='{"a": 1}'))
    assert runs(rig) == []
    rig.done("r1")
    assert runs(rig) == [("c1", "look_up", '{"a": 1}')]
    rig.returns()
    assert len(rig.creates) == 1


def test_a_call_that_was_cut_off_does_not_run(rig: Rig) -> None:
    rig.created("r1")
    rig.model(ArgumentsDone(response_id="r1", item_id="f1", call_id="c1", name="look_up", arguments="{"))
    rig.done("r1", "cancelled")
    assert runs(rig) == []


def test_the_name_of_a_call_may_come_with_the_item_of_the_conversation(rig: Rig) -> None:
    rig.created("r1")
    rig.model(ItemAdded(item=Item(id="f1", type="function_call", status="in_progress", call_id="c1", name="look_up")))
    rig.model(ArgumentsDone(response_id="r1", item_id="f1", call_id="c1", arguments="{}"))
    rig.done("r1")
    assert runs(rig) == [("c1", "look_up", "{}")]


def test_an_item_of_the_conversation_that_is_done_is_a_call_unless_we_told_it(rig: Rig) -> None:
    rig.bridge.signs.told(["c2"])
    rig.created("r1")
    rig.model(ItemAdded(item=Item(id="f1", type="function_call", status="in_progress", call_id="c1", name="look_up")))
    rig.model(ItemDone(item=Item(id="f1", type="function_call", call_id="c1", name="look_up", arguments="{}")))
    rig.model(ItemDone(item=Item(id="f2", type="function_call", call_id="c2", name="look_up", arguments="{}")))
    rig.done("r1")
    assert [call_id for call_id, *_ in runs(rig)] == ["c1"]  # the other one is of the past that we told


def test_a_call_of_the_past_that_is_confirmed_does_not_run() -> None:
    run = ToolRun(call_id="c1", name="look_up", arguments="{}", output="42", at_ms=0)
    rig = Rig(past=Past(tools=(run,), pending="answer"))
    rig.model(ItemAdded(item=function_call("c1")), ItemDone(item=function_call("c1")))
    rig.created("r1")
    rig.model(ItemAdded(item=function_call("c1")), ItemDone(item=function_call("c1")))
    rig.audio()
    rig.done("r1")
    assert runs(rig) == []


def test_arguments_of_a_response_before_are_no_call_of_this_one(rig: Rig) -> None:
    rig.says(100, ours=False)
    rig.created("r2")
    rig.model(ArgumentsDone(response_id="r1", item_id="f1", call_id="c1", name="look_up", arguments="{}"))
    rig.audio(100, "i2", "r2")
    rig.done("r2")
    assert runs(rig) == []


def test_a_call_without_an_id_has_that_of_its_item(rig: Rig) -> None:
    rig.created("r1")
    item = Item(id="f1", type="function_call", name="look_up", arguments="{}")
    rig.model(OutputItemDone(item=item, response_id="r1"))
    rig.done("r1")
    assert runs(rig) == [("f1", "look_up", "{}")]


def test_an_endless_number_of_calls_is_not_remembered() -> None:
    bench = Bench()
    bench.read(created())
    for number in range(2 * MAX_REMEMBERED):
        bench.read(OutputItemAdded(item=Item(id=f"f{number}", type="function_call"), response_id="r1"))
    assert len(bench.signs._calls) == MAX_REMEMBERED


def calls(rig: Rig, response: str, call_id: str = "look_up:0") -> None:
    """A response that calls a tool, announced twice as usual."""
    rig.created(response, ours=False)
    item = function_call(call_id)
    rig.model(OutputItemDone(item=item, response_id=response))
    rig.model(done(response, output=[item]))


def outputs(rig: Rig) -> list[str]:
    items = [message.item for message in rig.sent(realtime.ItemCreate)]
    return [item["call_id"] for item in items if item["type"] == "function_call_output"]


def test_the_ids_of_calls_may_come_again_in_the_next_response(rig: Rig) -> None:
    for response in ("r1", "r2"):
        calls(rig, response)
    names = [call_id for call_id, *_ in runs(rig)]
    assert len(set(names)) == 2
    for name in names:
        rig.returns(name)
    assert outputs(rig) == ["look_up:0"] * 2  # the model knows both by its own id


def test_the_ids_of_responses_may_come_again_as_well(rig: Rig) -> None:
    for _ in range(2):
        calls(rig, "r1")
    assert len(runs(rig)) == 2


def test_the_ids_of_calls_may_come_again_in_the_next_session() -> None:
    rig = Rig(renews=True)
    calls(rig, "r1")
    rig.bridge.model_away(rig.now, "the socket broke")
    rig.connect()
    calls(rig, "r1")
    first, second = [call_id for call_id, *_ in runs(rig)]
    rig.returns(first)
    rig.returns(second)
    told = [message.item for message in rig.sent(realtime.ItemCreate)]
    assert [item["call_id"] for item in told if item["type"] == "function_call"] == [first]
    assert outputs(rig) == [first, "look_up:0"]


# --- items ---


def test_the_ids_of_items_may_come_again_in_the_next_response(rig: Rig) -> None:
    for response, words in (("r1", "One."), ("r2", "Two.")):
        rig.created(response, ours=False)
        rig.model(realtime.TranscriptDelta(response_id=response, item_id="i1", delta=words))
        rig.audio(100, "i1", response)
        rig.audio_done("i1", response)
        rig.done(response)
        rig.wait(0.2)
        rig.hear()
    assert heard(rig) == [("agent", "One."), ("agent", "Two.")]
    assert len({event.turn.item_id for event in rig.events(TurnEnded)}) == 2


def test_a_truncation_bears_the_servers_own_id(rig: Rig) -> None:
    rig.heard("r1", ours=False)
    rig.says(2000, "item_r1", "r2", ours=False)
    rig.wait(0.5)
    rig.speech()
    ((item, _),) = rig.truncations
    assert item == "item_r1"


def test_what_is_remembered_is_bounded() -> None:
    bench = Bench()
    bench.read(created("r0"))
    for number in range(MAX_NAMES + 10):
        bench.read(audio("r0", f"i{number}"))
    for number in range(2 * MAX_REMEMBERED):
        bench.read(created(f"r{number}"), done(f"r{number}"))
    signs = bench.signs
    assert len(signs._wire) == MAX_NAMES
    assert len(signs._items) <= MAX_NAMES
    assert len(signs._numbers) == MAX_REMEMBERED
    assert len(signs._names._used) == MAX_NAMES


def test_a_call_whose_arguments_never_came_does_not_run(rig: Rig) -> None:
    rig.created("r1")
    item = Item(id="f1", type="function_call", status="in_progress", call_id="c1", name="look_up")
    rig.model(OutputItemAdded(item=item, response_id="r1"))
    rig.audio()
    rig.done("r1")
    assert runs(rig) == []


def test_a_response_that_bears_the_id_of_a_discarded_one_is_heard(rig: Rig) -> None:
    rig.created("r1", ours=False)
    rig.interrupt()
    rig.wait(5)  # no end of it came
    rig.says(100, ours=False)
    assert rig.media_ms() == 100


def test_an_odd_response_id_is_the_active_one_s_where_responses_are_announced(rig: Rig) -> None:
    rig.created("r1")
    rig.audio(100, "i1", "7")
    rig.done("r1")
    rig.wait(DONE_SECONDS + 1)
    assert len(rig.sent(carrier.Audio)) == 1
    assert rig.creates == []
    assert rig.troubles == []


def test_the_end_of_an_item_before_ends_no_item_after_it(rig: Rig) -> None:
    rig.created("r1")
    rig.audio(100, "i1")
    rig.audio(100, "i2")
    rig.audio_done("i1")
    rig.wait(DONE_SECONDS + 1)
    assert rig.bridge.responses.state is State.ACTIVE
    rig.audio_done("i2")
    rig.wait(DONE_SECONDS + 1)
    assert rig.bridge.responses.state is State.NONE


@pytest.mark.parametrize("event_id", ["create_1", "event_of_the_server"])
def test_an_error_that_names_the_request_of_the_active_response_may_be_its_end(rig: Rig, event_id: str) -> None:
    rig.say("One moment.")
    rig.created("r1", ours=True)
    rig.error("inference_failed", event_id)
    rig.wait(FAILED_SECONDS + 0.1)
    assert len(rig.creates) == 2


@pytest.mark.parametrize("number", ["7", 7, "0", "?", "9" * 30])
def test_metadata_that_is_none_of_ours_says_nothing(rig: Rig, number: Any) -> None:
    rig.say("One moment.")
    rig.created("r1", metadata={"phoneagent": number})
    rig.audio()
    rig.done("r1")
    rig.wait(10)
    assert len(rig.creates) == 1


def test_a_transcript_may_name_another_item_than_the_turn(rig: Rig) -> None:
    """LocalAI does so: only the turn without a text can be meant."""
    rig.model(SpeechStarted(item_id="u1"), SpeechStopped(item_id="u1"), Committed(item_id="u1"))
    rig.model(InputTranscript(item_id="t1", transcript=WORDS))
    assert callers(rig) == [WORDS]


def test_a_response_that_only_paused_goes_on_and_can_be_interrupted(rig: Rig) -> None:
    """A model may think for longer between a preamble and what follows than a response may be silent."""
    rig.turn()
    rig.created("r1", ours=False)
    rig.audio(100, "i1", "r1")
    rig.audio_done("i1", "r1")
    rig.wait(DONE_SECONDS + 0.1)
    rig.hear()
    rig.model(realtime.TranscriptDone(response_id="r1", item_id="i1", transcript="One moment."))
    assert rig.bridge.responses.state is State.NONE
    rig.audio(1000, "i2", "r1")
    assert rig.bridge.responses.state is State.ACTIVE
    rig.speech()
    assert rig.cancels == ["r1"]
    rig.audio(1000, "i2", "r1")
    assert rig.media_ms() == 1100


def test_a_call_after_a_pause_runs_once(rig: Rig) -> None:
    rig.created("r1")
    rig.calls("c1")
    rig.wait(DONE_SECONDS + 0.1)
    rig.model(OutputItemAdded(item=Item(id="item_c2", type="function_call"), response_id="r1"))
    rig.calls("c2")
    rig.done("r1", output=[function_call("c1"), function_call("c2")])
    assert [call_id for call_id, *_ in runs(rig)] == ["c1", "c2"]


# --- what a hostile tester found ---


def test_a_server_that_never_says_that_the_caller_has_stopped_answers_all_the_same(rig: Rig) -> None:
    rig.model(SpeechStarted(item_id="u1"))
    rig.heard("r1", ours=False)
    rig.model(InputTranscript(item_id="u1", transcript=WORDS))
    assert rig.media_ms() == 100
    assert callers(rig) == [WORDS]
    assert rig.cancels == []


def test_a_server_without_ids_of_responses_can_be_interrupted_and_heard_again(rig: Rig) -> None:
    for _ in range(2):
        rig.model(created(None))
        rig.audio(1000, "", "")
        rig.wait(0.5)
        rig.speech()
        rig.model(done(None, "cancelled"))
        rig.turn("")
    assert rig.media_ms() == 2000
    assert rig.cancels == [None, None]
    assert rig.truncations == []  # of an item that it gave no id
    assert len(rig.prompts) == 2
    assert rig.troubles == []


def test_a_call_whose_id_comes_later_runs_once(rig: Rig) -> None:
    rig.created("r1")
    rig.model(
        OutputItemDone(item=Item(id="f1", type="function_call", name="look_up", arguments="{}"), response_id="r1")
    )
    item = Item(id="f1", type="function_call", call_id="c1", name="look_up", arguments="{}", status="completed")
    rig.model(done("r1", output=[item]))
    assert len(runs(rig)) == 1


def test_two_items_of_a_response_may_have_one_call_id(rig: Rig) -> None:
    rig.created("r1")
    for number in ("1", "2"):
        item = Item(id=f"f{number}", type="function_call", call_id="c", name="look_up", arguments=number)
        rig.model(OutputItemDone(item=item, response_id="r1"))
    rig.done("r1")
    assert [arguments for *_, arguments in runs(rig)] == ["1", "2"]


@pytest.mark.parametrize("status", ["done", "in_progress", "success"])
def test_another_word_for_complete_is_complete(rig: Rig, status: str) -> None:
    rig.created("r1")
    rig.model(done("r1", status, output=[function_call("c1", status)]))
    assert len(runs(rig)) == 1


def test_the_name_of_a_call_is_known_from_its_beginning(rig: Rig) -> None:
    rig.created("r1")
    rig.model(OutputItemAdded(item=Item(id="f1", type="function_call", name="look_up"), response_id="r1"))
    item = Item(id="f1", type="function_call", call_id="c1", arguments="{}")
    rig.model(OutputItemDone(item=item, response_id="r1"))
    rig.done("r1")
    assert runs(rig) == [("c1", "look_up", "{}")]


def test_calls_of_a_response_that_only_the_next_one_ends_run(rig: Rig) -> None:
    rig.created("r1")
    rig.model(ArgumentsDone(response_id="r1", item_id="f1", call_id="c1", name="look_up", arguments="{}"))
    rig.model(ArgumentsDone(response_id="r1", call_id="c2", name="look_up", arguments="{}"))
    rig.created("r2")
    assert [call_id for call_id, *_ in runs(rig)] == ["c1", "c2"]


def test_between_an_end_that_was_not_reported_and_the_next_response_nothing_is_asked_for(rig: Rig) -> None:
    rig.created("r1", ours=False)
    rig.audio(100)
    rig.turn()
    rig.says(100, "i2", "r2", ours=False)
    rig.wait(20)
    assert rig.creates == []


def test_a_server_that_reports_ends_is_waited_for(rig: Rig) -> None:
    """A model may think for long between two items of a response."""
    rig.heard("r1", ours=False)
    rig.turn()
    rig.created("r2", ours=False)
    rig.calls("c1", "r2")
    rig.returns("c1")
    rig.wait(DONE_SECONDS + 1)
    rig.calls("c2", "r2")
    rig.done("r2")
    assert rig.creates == []
    rig.returns("c2")
    assert len(rig.creates) == 1


def test_a_response_that_goes_on_after_an_error_is_not_answered_twice(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.audio(400)
    rig.error("server_error")
    rig.wait(FAILED_SECONDS + 0.1)
    assert len(rig.creates) == 1
    rig.audio(400)
    rig.error("conversation_already_has_active_response", "create_1")
    rig.audio_done()
    rig.done("r1")
    rig.wait(1)
    rig.hear()
    rig.wait(20)
    assert len(rig.creates) == 1
    assert [event.turn.said_ms for event in rig.events(TurnEnded) if event.turn.role == "agent"] == [800]


def test_prescribed_words_that_go_on_after_an_error_are_not_said_twice(rig: Rig) -> None:
    rig.say("One moment.")
    rig.created("r1", ours=True)
    rig.error("server_error")
    rig.stalled = True
    rig.bridge.responses.wait(rig.now + 5)  # a rate limit holds the second attempt back
    rig.wait(FAILED_SECONDS + 0.1)
    rig.audio()
    rig.done("r1")
    rig.wait(20)
    assert len(rig.creates) == 1


@pytest.mark.parametrize("code", ["audio_generation_failed", "session_error"])
def test_the_name_of_a_failure_is_not_mistaken_for_that_of_a_request(rig: Rig, code: str) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.error(code)
    rig.wait(UNCLEAR_SECONDS + 0.1)
    assert len(rig.creates) == 1


def test_a_failure_may_be_an_event_of_the_response(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.model(Unknown("response.error"))
    rig.wait(FAILED_SECONDS + 0.1)
    assert len(rig.creates) == 1


def test_what_does_not_belong_to_a_response_does_not_keep_it_alive() -> None:
    rig = Rig(renews=True)
    rig.turn()
    rig.created("r1", ours=False)
    for _ in range(4):
        rig.wait(4)
        rig.model(Unknown("keepalive"))
    assert "waited 7.5 s" in rig.troubles[0]


def test_the_id_of_a_hosted_call_may_come_again(rig: Rig) -> None:
    for response in ("r1", "r2"):
        rig.created(response)
        rig.model(ItemAdded(item=Item(id="mcp_0", type="mcp_call", status="in_progress")))
        rig.model(OutputItemDone(item=Item(id="mcp_0", type="mcp_call", status="completed"), response_id=response))
        rig.model(ItemDone(item=Item(id="mcp_0", type="mcp_call", status="completed")))
        rig.done(response)
    assert len(rig.creates) == 2
    rig.heard("r3")
    rig.wait(20)
    assert len(rig.creates) == 2


def test_an_answer_that_was_cut_off_before_its_first_word_is_told(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.done("r1", "incomplete")
    assert rig.troubles == ["response incomplete: no reason given"]
    assert len(rig.creates) == 1


def test_an_item_that_begins_and_is_not_complete_is_no_call(rig: Rig) -> None:
    rig.created("r1")
    rig.model(ItemAdded(item=function_call("c1", "incomplete")))
    rig.audio()
    rig.done("r1")
    assert runs(rig) == []


def test_a_response_that_is_active_unseen_may_have_no_id(rig: Rig) -> None:
    rig.say("One moment.")
    rig.error("conversation_already_has_active_response", "create_1")
    rig.audio(100, "", "")
    assert rig.media_ms() == 100
    rig.model(done(None))
    assert len(rig.creates) == 2


def test_a_response_that_goes_on_after_our_retry_was_refused_is_not_answered_twice(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.error("server_error")
    rig.wait(FAILED_SECONDS + 0.1)
    rig.error("conversation_already_has_active_response", "create_1")
    rig.audio(400)
    rig.audio_done()
    rig.done("r1")
    rig.wait(1)
    rig.hear()
    rig.wait(20)
    assert len(rig.creates) == 1


def test_a_response_that_goes_on_after_its_retry_was_interrupted_is_not_active_again(rig: Rig) -> None:
    rig.turn()
    rig.created("r1", ours=False)
    rig.error("server_error")
    rig.wait(FAILED_SECONDS + 0.1)
    rig.interrupt()
    rig.audio(400)
    assert rig.bridge.responses.state is State.DROPPED
