"""A model session that is lost in the middle of a call, and the next one."""

from __future__ import annotations

import pytest

from phoneagent.bridge import renewal
from phoneagent.bridge.caller import REPLAY_SECONDS
from phoneagent.bridge.history import Past
from phoneagent.bridge.policy import Floor, Silence
from phoneagent.bridge.requests import Renew
from phoneagent.bridge.steps import Resume
from phoneagent.events import AgentPaused, ToolReturned, Turn, TurnEnded
from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import Clear
from tests.bridge.rig import STREAM, Rig, ulaw


@pytest.fixture
def rig() -> Rig:
    return Rig(renews=True, apology=ulaw(300))


def away(rig: Rig, reason: str = "1006") -> bool:
    going_on = rig.bridge.model_away(rig.now, reason)
    rig.flush()
    return going_on


def renewed(rig: Rig) -> list[str]:
    """Lose the session, get another one; return what that one was told."""
    told = len(rig.prompts)
    assert away(rig)
    rig.connect()
    return rig.prompts[told:]


def understood(rig: Rig, item: str, text: str) -> None:
    rig.model(realtime.InputTranscript(item_id=item, transcript=text))


def test_a_quiet_call_is_told_to_the_next_session(rig: Rig) -> None:
    rig.speech()
    rig.turn("u1")
    understood(rig, "u1", "A table?")
    rig.model(realtime.TranscriptDone(response_id="r1", item_id="i1", transcript="For how many?"))
    rig.says(500, ours=False)
    rig.wait(0.6)
    rig.hear()
    assert renewed(rig)[:2] == ["A table?", "For how many?"]
    assert "Wait until" in rig.prompts[-1]
    assert rig.creates == []
    assert rig.bridge.floor() is Floor.OPEN


def test_an_answer_that_was_cut_off_goes_on(rig: Rig) -> None:
    rig.speech()
    rig.turn("u1")
    understood(rig, "u1", "A table?")
    rig.created("r1", ours=False)
    rig.model(realtime.TranscriptDelta(response_id="r1", item_id="i1", delta="For how many people shall it be?"))
    rig.audio(1000)
    told = renewed(rig)
    assert told[0] == "A table?"
    assert "For how many people shall it be?".startswith(told[1])
    assert len(told[1]) < 20  # its words ran ahead of what came of its audio
    assert "go on where you were cut off" in told[2]
    assert len(rig.creates) == 1
    assert rig.sent(Clear) == []  # what had come is played to its end
    rig.wait(1.1)
    rig.hear()
    assert rig.events(TurnEnded)[-1].turn.text == told[1]


def test_an_interruption_of_what_the_old_session_said_is_reported_in_words(rig: Rig) -> None:
    rig.created("r1", ours=False)
    rig.model(realtime.TranscriptDone(response_id="r1", item_id="i1", transcript="A rather long sentence it is."))
    rig.audio(2000)
    rig.audio_done()
    rig.done()
    renewed(rig)
    rig.wait(0.5)
    rig.speech()
    assert rig.truncations == []
    assert "they heard only this much" in rig.prompts[-1]
    assert len(rig.sent(Clear)) == 1


def test_a_turn_that_was_not_understood_is_heard_once_more(rig: Rig) -> None:
    rig.media(500)
    rig.speech()
    rig.media(500, 500)
    before = rig.given_bytes()
    assert "Wait until" in renewed(rig)[-1]
    assert rig.given_bytes() == 2 * before
    assert rig.creates == []
    rig.speech()
    rig.turn("u2")
    understood(rig, "u2", "A table?")
    assert [event.turn.text for event in rig.events(TurnEnded)] == ["A table?"]


def test_what_is_heard_once_more_counts_and_does_not_interrupt_what_the_agent_says_now() -> None:
    rig = Rig(renews=True, min_speech_ms=500)
    rig.media(500)
    rig.speech()
    rig.media(500, 500)
    renewed(rig)
    rig.bridge.playback.queue(ulaw(3000))  # an apology
    rig.speech()
    assert (rig.events(AgentPaused), rig.sent(Clear)) == ([], [])
    rig.turn("u2")
    understood(rig, "u2", "")
    assert rig.sent(realtime.ItemDelete) == []
    assert rig.bridge.responses.owed


def test_a_greeting_that_was_not_begun_is_said_and_one_that_was_is_not() -> None:
    rig = Rig(renews=True, greeting="Hello!")
    assert "exactly these words" in rig.prompts[0]
    assert sum("exactly these words" in text for text in renewed(rig)) == 1
    rig.created("r1", ours=True)
    rig.model(realtime.TranscriptDone(response_id="r1", item_id="i1", transcript="Hello!"))
    rig.audio(300)
    assert not any("exactly these words" in text for text in renewed(rig))


def test_words_of_the_code_that_were_not_said_are_said(rig: Rig) -> None:
    rig.say("Your code is 1234.")
    assert len(rig.creates) == 1
    assert sum("1234" in text for text in renewed(rig)) == 1
    assert len(rig.creates) == 2


def test_a_tool_goes_on_and_its_output_reaches_the_next_session(rig: Rig) -> None:
    rig.created()
    rig.calls("c1")
    rig.done()
    told = len(rig.sent(realtime.ItemCreate))
    renewed(rig)
    calls = [item.item for item in rig.sent(realtime.ItemCreate)[told:]]
    assert [item["type"] for item in calls] == ["function_call", "message"]
    assert "tell them once you have its output" in calls[-1]["content"][0]["text"], "the caller waits for it"
    rig.returns("c1", "42")
    assert rig.sent(realtime.ItemCreate)[-1].item["output"] == "42"
    assert len(rig.creates) == 1
    assert len(rig.asked) == 1  # it ran once


def test_what_a_tool_returned_between_two_sessions_is_told_once(rig: Rig) -> None:
    rig.created()
    rig.calls("c1")
    rig.done()
    told = len(rig.sent(realtime.ItemCreate))
    assert away(rig)
    rig.returns("c1", "42", added=False)
    rig.connect()
    items = [item.item for item in rig.sent(realtime.ItemCreate)[told:]]
    assert [item.get("output") for item in items if "call_id" in item] == [None, "42"]
    assert len(rig.events(ToolReturned)) == 1
    assert len(rig.creates) == 1


def test_the_past_of_an_earlier_stream_comes_first() -> None:
    turn = Turn(role="caller", item_id="x", text="Hi", heard_text="Hi", start_ms=0, end_ms=1, said_ms=1, heard_ms=1)
    rig = Rig(renews=True, past=Past(turns=(turn,), pending="nothing", age_ms=5000), greeting="Hello!")
    rig.speech()
    rig.turn("u1")
    understood(rig, "u1", "A table?")
    assert renewed(rig)[:2] == ["Hi", "A table?"]


def test_a_transfer_that_came_back_is_told_until_the_agent_has_said_something() -> None:
    past = Past(pending="answer", returned="The transfer is over: billing is busy.")
    rig = Rig(renews=True, past=past)
    assert "billing is busy" in rig.prompts[-1]
    assert any("billing is busy" in each for each in renewed(rig))
    rig.heard("r1")
    assert not any("billing is busy" in each for each in renewed(rig))


def test_what_the_code_added_is_told_in_its_place(rig: Rig) -> None:
    rig.wait(1)
    assert rig.bridge.conversation.add("It rains.", "system", rig.now)
    rig.wait(1)
    rig.speech()
    rig.turn("u1")
    understood(rig, "u1", "A table?")
    assert renewed(rig)[:2] == ["It rains.", "A table?"]


def test_what_the_code_adds_between_two_sessions_is_told_once(rig: Rig) -> None:
    rig.speech()
    rig.turn("u1")
    understood(rig, "u1", "A table?")
    told = len(rig.prompts)
    assert away(rig)
    rig.wait(0.1)
    assert rig.bridge.conversation.add("It rains.", "system", rig.now)
    rig.connect()
    assert rig.prompts[told:][:2] == ["A table?", "It rains."]
    assert rig.prompts[told:].count("It rains.") == 1


def test_what_the_code_adds_before_a_resumed_call_has_a_session_comes_after_its_past() -> None:
    turn = Turn(role="caller", item_id="x", text="Hi", heard_text="Hi", start_ms=0, end_ms=1, said_ms=1, heard_ms=1)
    rig = Rig(connect=False, past=Past(turns=(turn,), pending="nothing", age_ms=5000))
    assert rig.bridge.conversation.add("It rains.", "system", rig.now)
    rig.connect()
    assert rig.prompts[:2] == ["Hi", "It rains."]
    assert len(rig.prompts) == 3  # and what puts it back into the call


def test_a_change_of_the_session_applies_to_the_new_one(rig: Rig) -> None:
    assert away(rig)
    rig.bridge.conversation.change_session({"instructions": "You do bills."})
    rig.connect()
    assert [update.session for update in rig.sent(realtime.SessionUpdate)] == [{"instructions": "You do bills."}]


@pytest.mark.parametrize("code", ["session_expired", "server_error"])
def test_a_session_that_is_of_no_use_is_renewed(rig: Rig, code: str) -> None:
    if code == "session_expired":
        rig.error(code)
    else:
        for response in ("r1", "r2"):
            rig.created(response, ours=None)
            rig.done(response, "failed", code)
            rig.wait(0.1)
    assert [type(request) for request in rig.asked] == [Renew]
    assert rig.ended is None
    rig.connect()
    assert not rig.bridge.ended


def test_the_patience_of_a_caller_has_an_end(rig: Rig) -> None:
    assert away(rig)
    rig.talk(renewal.PATIENCE_SECONDS - 1)
    assert away(rig)
    rig.talk(1.1)
    assert not away(rig)
    assert rig.given_up == "1006"


def test_sessions_that_never_say_anything_are_not_renewed_forever(rig: Rig) -> None:
    for _ in range(renewal.MAX_FRUITLESS):
        assert away(rig)
        rig.connect()
    assert not away(rig)


def test_sessions_that_say_a_little_are_renewed_so_often_a_minute(rig: Rig) -> None:
    for number in range(3 * renewal.MAX_LOSSES_A_MINUTE):
        assert away(rig)
        rig.connect()
        rig.created(f"r{number}", ours=False)
        rig.audio(20, f"i{number}", f"r{number}")
        rig.talk(6)
    for _ in range(renewal.MAX_LOSSES_A_MINUTE - 10):
        assert away(rig)
        rig.connect()
        rig.bridge.renewal.was_heard()
    while away(rig):
        rig.connect()
        rig.bridge.renewal.was_heard()
    assert rig.bridge.floor() is Floor.CLOSING


def test_in_the_goodbye_no_other_session_is_opened(rig: Rig) -> None:
    rig.hang_up()
    assert not away(rig)
    assert rig.given_up or rig.ended is not None


@pytest.mark.parametrize("refused", ["response.done", "error"])
def test_what_failed_twice_is_answered_by_the_next_session(rig: Rig, refused: str) -> None:
    rig.speech()
    rig.turn("u1")
    understood(rig, "u1", "A table?")
    rig.created("r1", ours=False)
    rig.done("r1", "failed", "server_error")
    rig.wait(0.1)
    if refused == "error":
        rig.error("server_error", rig.creates[-1].event_id)
    else:
        rig.created("r2", ours=True)
        rig.done("r2", "failed", "server_error")
    assert [type(request) for request in rig.asked] == [Renew]
    before = len(rig.creates)
    rig.connect()
    assert len(rig.creates) == before + 1
    assert "waiting" in rig.prompts[-1]


def test_words_of_the_code_that_failed_twice_are_said_by_the_next_session(rig: Rig) -> None:
    rig.say("Your code is 1234.")
    for response in ("r1", "r2"):
        rig.created(response, ours=True)
        rig.done(response, "failed", "server_error")
        rig.wait(0.1)
    told = len(rig.prompts)
    rig.connect()
    assert sum("1234" in text for text in rig.prompts[told:]) == 1


def test_words_of_the_code_that_were_begun_are_said_once_more(rig: Rig) -> None:
    rig.say("Your code is 4 8 1 5.")
    rig.created("r1", ours=True)
    rig.model(realtime.TranscriptDelta(response_id="r1", item_id="i1", delta="Your code is 4 8 1 5."))
    rig.audio(700)
    told = renewed(rig)
    assert "4 8 1 5" in told[-1]
    assert "Wait until" in told[-2]
    assert len(rig.creates) == 2


def test_a_greeting_that_was_begun_is_finished() -> None:
    rig = Rig(renews=True, greeting="Good evening, this is Chez Nous!")
    rig.created("r1", ours=True)
    rig.model(realtime.TranscriptDelta(response_id="r1", item_id="i1", delta="Good evening, this is Chez Nous!"))
    rig.audio(400)
    assert "go on where you were cut off" in renewed(rig)[-1]
    assert len(rig.creates) == 2


@pytest.mark.parametrize("server_answers", [True, False])
def test_nothing_is_asked_for_before_the_question_is_heard(server_answers: bool) -> None:
    rig = Rig(renews=True, barge_in=server_answers, server_answers=server_answers)
    rig.media(500)
    rig.speech()
    rig.media(500, 500)
    rig.turn("u1")  # without a text yet
    before = len(rig.creates)
    renewed(rig)
    assert not rig.bridge.quiet(rig.now)
    assert len(rig.creates) == before
    rig.speech()
    rig.turn("u2")
    rig.wait(0.1)
    assert len(rig.creates) == before + (not server_answers)


def test_what_was_no_turn_when_it_was_heard_again_holds_nothing_up(rig: Rig) -> None:
    rig.created()
    rig.calls("c1")
    rig.done()
    rig.media(500)
    rig.speech()
    rig.media(500, 500)
    rig.returns("c1", "42")
    before = len(rig.creates)
    renewed(rig)
    assert len(rig.creates) == before
    rig.talk(REPLAY_SECONDS + 0.1)
    assert len(rig.creates) == before + 1


def test_a_hand_over_between_two_sessions_notes_words_that_were_not_understood(rig: Rig) -> None:
    rig.media(500)
    rig.speech()
    rig.media(500, 500)
    assert away(rig)
    rig.hand_over()
    assert rig.ended is not None
    assert rig.ended.next_step == Resume(stream_sid=STREAM, pending="words", broke=False)


# --- turns that the user's code takes ---


def by_hand() -> Rig:
    return Rig(renews=True, manual_turns=True, server_answers=False)


def hold_the_key(rig: Rig, frames: int = 60) -> None:
    rig.bridge.push_to_talk.clear()
    for _ in range(frames):
        rig.wait(0.05)
        rig.media(50)


def test_a_call_is_not_handed_over_while_the_key_is_held() -> None:
    rig = by_hand()
    hold_the_key(rig)
    assert not rig.bridge.quiet(rig.now, heard_again=True)
    rig.bridge.push_to_talk.commit()
    rig.flush()
    assert rig.bridge.quiet(rig.now, heard_again=True)


def test_what_was_said_since_the_key_was_pressed_is_heard_again() -> None:
    rig = by_hand()
    hold_the_key(rig)
    before = rig.given_bytes()
    renewed(rig)
    assert rig.given_bytes() == 2 * before
    assert rig.sent(realtime.AudioCommit) == []


def test_a_turn_that_was_committed_and_not_understood_is_committed_again() -> None:
    rig = by_hand()
    hold_the_key(rig)
    rig.bridge.push_to_talk.commit()
    rig.bridge.conversation.respond({})
    rig.wait(0.1)
    told = len(rig.to_model)
    renewed(rig)
    kinds = [type(message).__name__ for message in rig.to_model[told:]]
    assert kinds[:2] == ["ItemCreate", "AudioAppend"]
    assert kinds[-2:] == ["AudioCommit", "ResponseCreate"]


def test_a_turn_between_two_sessions_comes_after_the_history() -> None:
    rig = by_hand()
    rig.model(realtime.Committed(item_id="u1"))
    understood(rig, "u1", "A table?")
    assert away(rig)
    rig.bridge.push_to_talk.clear()
    rig.media(500)
    rig.bridge.push_to_talk.commit()
    rig.bridge.conversation.respond({})
    told = len(rig.to_model)
    rig.connect()
    kinds = [type(message).__name__ for message in rig.to_model[told:]]
    assert kinds.index("ItemCreate") < kinds.index("AudioAppend") < kinds.index("AudioCommit")
    assert kinds.count("AudioCommit") == 1
    assert kinds[-1] == "ResponseCreate"


# --- small things ---


def test_what_was_interrupted_before_it_began_is_not_asked_for_again(rig: Rig) -> None:
    rig.speech()
    rig.turn("u1")
    understood(rig, "u1", "A table?")
    rig.interrupt()
    before = len(rig.creates)
    renewed(rig)
    assert len(rig.creates) == before


def test_a_late_transcript_does_not_settle_the_sentence_after_it(rig: Rig) -> None:
    rig.media(500)
    rig.speech()
    rig.media(1000, 500)
    rig.turn("u1")
    rig.speech()
    for number in range(100):
        rig.wait(0.02)
        rig.media(20, 1500 + 20 * number)
    understood(rig, "u1", "A table?")
    rig.media(20, 3500)
    before = sum(len(message.audio) for message in rig.sent(realtime.AudioAppend))
    renewed(rig)
    assert sum(len(message.audio) for message in rig.sent(realtime.AudioAppend)) - before > 16_000  # base64


def test_the_greeting_comes_first() -> None:
    rig = Rig(renews=True, greeting="Hello!")
    rig.say("Your call is recorded.")
    told = renewed(rig)
    assert "Hello!" in told[-1]
    assert len(rig.creates) == 2


def test_the_agent_has_ended_the_call_even_if_the_model_is_lost_during_the_goodbye(rig: Rig) -> None:
    rig.hang_up()
    assert not away(rig)
    rig.wait(5)
    assert rig.ended is not None
    assert rig.ended.ended_by == "agent"


def test_losses_are_counted(rig: Rig) -> None:
    for _ in range(3):
        renewed(rig)
    assert len([what for what in rig.troubles if "model session lost" in what]) == 3


def test_what_no_session_takes_of_the_code_is_dropped(rig: Rig) -> None:
    assert rig.bridge.conversation.respond({"instructions": "Sing.", "tools": [{"type": "nonsense"}]})
    for number in range(2):
        rig.bridge.handle_timer(rig.now)
        rig.flush()
        assert len(rig.creates) == number + 1
        rig.error("invalid_value", rig.creates[-1].event_id)
    rig.talk(10)
    assert len(rig.creates) == 2
    assert rig.asked == []
    assert any("invalid_value" in what for what in rig.troubles)


def test_a_caller_may_speak_for_as_long_as_they_like(rig: Rig) -> None:
    rig.say("Your code is 1234.")
    rig.created("r1", ours=True)
    rig.speech()
    rig.talk(Silence().give_up_seconds + 5)
    assert away(rig)


def test_a_key_that_is_never_released_does_not_stop_a_hand_over_forever() -> None:
    rig = by_hand()
    hold_the_key(rig, frames=100)
    assert not rig.bridge.quiet(rig.now, heard_again=True)
    for _ in range(120):
        rig.wait(0.05)
        rig.media(50)
    assert rig.bridge.quiet(rig.now, heard_again=True)


def test_what_was_said_to_a_session_that_heard_nothing_is_heard_by_the_next(rig: Rig) -> None:
    for _ in range(200):
        rig.wait(0.02)
        rig.media()
    before = rig.given_bytes()
    renewed(rig)
    assert rig.given_bytes() == 2 * before


# --- what must not be lost on the way, and how long it may take ---


@pytest.mark.parametrize("begins", [False, True])
def test_sessions_that_answer_nothing_are_not_waited_for_one_after_another(rig: Rig, begins: bool) -> None:
    rig.speech()
    rig.turn("u1")
    understood(rig, "u1", "A table?")
    if begins:
        rig.created("r0", ours=False)
    since, renewals, asked = rig.now, 0, 0
    while rig.bridge.floor() is not Floor.CLOSING and rig.now < since + 200:
        rig.talk(0.5)
        if sum(isinstance(request, Renew) for request in rig.asked) > renewals:
            renewals += 1
            assert away(rig)
            rig.connect()
        if begins and len(rig.creates) > asked:
            asked = len(rig.creates)
            rig.created(f"r{asked}", ours=True)
    assert renewals > 0
    assert rig.now - since < Silence().give_up_seconds + 1
    assert rig.given_up


def test_after_too_many_sessions_that_brought_nothing_no_other_one_is_tried(rig: Rig) -> None:
    for _ in range(renewal.MAX_FRUITLESS):
        assert away(rig)
        rig.connect()
    rig.turn("u1")
    rig.talk(Silence().retry_seconds + 0.1)
    assert not any(isinstance(request, Renew) for request in rig.asked)
    assert "waited 7.5 s" in rig.given_up


def test_a_long_answer_is_no_silence(rig: Rig) -> None:
    rig.speech()
    rig.turn("u1")
    rig.created("r1", ours=False)
    for _ in range(8):
        rig.talk(Silence().give_up_seconds / 4)
        rig.audio(500)
    assert away(rig)


def test_the_wait_for_a_model_counts_from_the_start_of_the_call() -> None:
    rig = Rig(renews=True, connect=False)
    rig.talk(renewal.PATIENCE_SECONDS)
    assert not away(rig)


def test_a_word_that_was_begun_before_the_loss_is_heard_again(rig: Rig) -> None:
    rig.talk(2)
    for _ in range(100):
        rig.wait(0.02)
        rig.media()
    before = len(rig.sent(realtime.AudioAppend))
    renewed(rig)
    assert len(rig.sent(realtime.AudioAppend)) - before >= 50  # a second: the model had not told of it yet


def test_a_session_that_dies_at_once_swallows_nothing(rig: Rig) -> None:
    for _ in range(100):
        rig.wait(0.02)
        rig.media()
    renewed(rig)
    before = len(rig.sent(realtime.AudioAppend))
    renewed(rig)
    assert len(rig.sent(realtime.AudioAppend)) - before >= 50


def test_what_was_understood_is_not_heard_again(rig: Rig) -> None:
    rig.media(500)
    rig.speech()
    rig.media(500, 500)
    rig.turn("u1")
    understood(rig, "u1", "A table?")
    before = len(rig.sent(realtime.AudioAppend))
    renewed(rig)
    assert len(rig.sent(realtime.AudioAppend)) == before


def test_an_answer_that_was_stopped_between_two_sessions_does_not_go_on(rig: Rig) -> None:
    rig.created("r1", ours=False)
    rig.model(realtime.TranscriptDone(response_id="r1", item_id="i1", transcript="Secret words are these and those."))
    rig.audio(2000)
    assert away(rig)
    rig.interrupt()
    rig.say("I cannot tell.")
    told, asked = len(rig.prompts), len(rig.creates)
    rig.connect()
    assert not any("go on where you were cut off" in text for text in rig.prompts[told:])
    assert "I cannot tell." in rig.prompts[-1]
    rig.heard(f"r{asked}")
    assert len(rig.creates) == asked + 1  # and nothing is asked for but those words


def test_an_interruption_between_two_sessions_while_nothing_plays_drops_the_answer(rig: Rig) -> None:
    rig.speech()
    rig.turn("u1")
    understood(rig, "u1", "A table?")
    rig.created("r1", ours=False)
    assert away(rig)
    rig.interrupt()
    told = len(rig.prompts)
    rig.connect()
    assert rig.creates == []
    assert "Wait until" in rig.prompts[told:][-1]


@pytest.mark.parametrize("done_first", [True, False])
def test_an_answer_that_waited_for_a_hosted_tool_is_asked_for_again(rig: Rig, done_first: bool) -> None:
    rig.speech()
    rig.turn("u1")
    understood(rig, "u1", "What is my balance?")
    rig.created("r1")
    rig.audio(800)
    rig.audio_done()
    hosted = realtime.Item(id="m1", type="mcp_call", status="in_progress", name="balance")
    rig.model(realtime.OutputItemDone(response_id="r1", item=hosted))
    if done_first:
        rig.done("r1")
    rig.wait(1)
    rig.hear()
    before = len(rig.creates)
    renewed(rig)
    rig.talk(1)
    assert len(rig.creates) == before + 1


def test_a_response_of_user_code_is_not_asked_for_again_while_its_tool_runs() -> None:
    rig = Rig(renews=True, manual_turns=True, server_answers=False)
    rig.bridge.conversation.respond({})
    rig.bridge.move_on(rig.now)
    rig.flush()
    rig.created("r1", ours=True)
    rig.calls("c1")
    before = len(rig.creates)
    renewed(rig)
    rig.wait(1)
    assert len(rig.creates) == before
    rig.returns("c1")
    assert len(rig.creates) == before + 1
