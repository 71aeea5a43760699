"""The records of a session: how much was sent and held, and what was said, heard and brought."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.sim.model.records import AudioItem, CommittedTurn, SessionRecord


@pytest.mark.parametrize(("bytes_per_ms", "sent", "ms"), [(8, 0, 0), (8, 7, 0), (8, 1600, 200), (48, 4800, 100)])
def test_what_was_sent_is_counted_in_whole_milliseconds(bytes_per_ms: int, sent: int, ms: int) -> None:
    item = AudioItem("item_1", "resp_1", "Hello.", bytes_per_ms, bytearray(sent))

    assert item.sent_ms == item.held_ms == ms


def test_a_truncation_changes_what_is_held_and_not_what_was_sent() -> None:
    item = AudioItem("item_1", "resp_1", "Hello.", audio=bytearray(8000))

    item.truncated_ms = 0
    assert (item.sent_ms, item.held_ms) == (1000, 0)
    item.truncated_ms = 400
    assert (item.sent_ms, item.held_ms) == (1000, 400)


def test_items_do_not_share_their_audio() -> None:
    one, other = AudioItem("1", "r", "x"), AudioItem("2", "r", "x")
    one.audio += b"\xff"
    one.delta_log.append((0.0, 1))

    assert (other.audio, other.delta_log) == (bytearray(), [])


def test_what_was_said_and_heard_is_in_order_and_whole() -> None:
    record = SessionRecord()
    record.audio_items += [AudioItem("1", "r", "A long line.", interrupted=True), AudioItem("2", "r", "Yes?")]
    record.caller_turns += [CommittedTurn("3", 0, 500, 10.0, "Wait!"), CommittedTurn("4", 900, 1200, 11.0)]

    assert record.said == ["A long line.", "Yes?"]
    assert record.heard == ["Wait!", ""]


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (
            {"type": "message", "role": "user", "content": [{"text": "A table,"}, {"text": "please."}]},
            ("user", "A table, please."),
        ),
        ({"type": "message", "role": "system", "content": []}, ("system", "")),
        ({"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": "////"}]}, ("user", "")),
        (
            {"type": "function_call", "name": "book", "arguments": '{"n": 4}'},
            ("function_call", 'book({"n": 4})'),
        ),
        ({"type": "function_call_output", "call_id": "c", "output": "Done."}, ("function_call_output", "Done.")),
    ],
)
def test_what_the_client_brought_is_told_in_a_line(item: dict[str, Any], told: tuple[str, str]) -> None:
    record = SessionRecord()
    record.brought.append(item)

    assert record.told == [told]


def test_the_words_until_a_time_are_those_of_the_sentences_heard() -> None:
    item = AudioItem("i", "r", "One two. Three four.", parts=[("One two.", 800), ("Three four.", 800)])
    assert item.text_until(200) == "One two. Three four."
    assert item.text_until(100) == "One two.…"
    assert item.text_until(60) == "One…"
    assert item.text_until(0) == ""
