"""What the user's code asks of the model: items, responses of their own, and turns taken by hand."""

from __future__ import annotations

import pytest

from phoneagent.bridge.caller import MAX_OUTBOX
from phoneagent.bridge.conversation import MAX_NOTES
from phoneagent.bridge.history import Role
from phoneagent.bridge.policy import Floor
from phoneagent.bridge.responses import MAX_WANTED
from phoneagent.protocol import realtime
from tests.bridge.rig import Rig

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


def test_nobody_answers_a_turn_by_hand_but_who_is_asked_to() -> None:
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
