"""The queue between the server and the ear. Time is an argument: the start of the stream is at 100 s."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.protocol.audio import SILENCE
from phoneagent.sim.twilio import playout
from phoneagent.sim.twilio.playout import Playout, Span

SECOND = bytes(8000)


@pytest.fixture
def queue() -> Playout:
    return Playout(100.0)


def spans(queue: Playout, now: float) -> list[tuple[float, float, int, int]]:
    return [(round(s.start_ms, 3), round(s.end_ms, 3), s.stream_start, s.stream_end) for s in queue.spans(now)]


def test_audio_plays_at_once_and_to_the_byte(queue: Playout):
    queue.media(SECOND, 101.0)
    assert queue.position(101.0) == 0
    assert queue.position(101.0001) == pytest.approx(0.8)
    assert queue.position(101.5) == 4000
    assert queue.queued_ms(101.25) == 750
    assert queue.position(105.0) == 8000
    assert queue.queued_ms(105.0) == 0


def test_what_comes_in_time_plays_on_without_a_gap(queue: Playout):
    queue.media(SECOND, 101.0)
    queue.media(SECOND, 101.9)
    assert spans(queue, 110.0) == [(1000, 3000, 0, 16000)]


def test_silence_separates_spans(queue: Playout):
    queue.media(SECOND, 101.0)
    queue.media(SECOND, 103.5)
    assert spans(queue, 104.0) == [(1000, 2000, 0, 8000), (3500, 4000, 8000, 12000)]
    assert spans(queue, 110.0) == [(1000, 2000, 0, 8000), (3500, 4500, 8000, 16000)]


def test_a_mark_is_due_when_what_is_before_it_has_played(queue: Playout):
    queue.media(SECOND, 101.0)
    queue.mark("first", 101.1)
    queue.media(SECOND, 101.2)
    queue.mark("second", 101.2)
    assert queue.next_due() == pytest.approx(102.0)
    assert queue.due(101.999) == []
    assert [mark.name for mark in queue.due(102.0001)] == ["first"]
    assert queue.next_due() == pytest.approx(103.0)
    assert [(mark.name, mark.position) for mark in queue.due(200.0)] == [("second", 16000)]
    assert queue.next_due() is None
    assert not any(mark.cleared for mark in queue.marks)


def test_a_mark_with_nothing_before_it_is_due_at_once(queue: Playout):
    queue.mark("early", 101.0)
    assert [mark.name for mark in queue.due(101.0)] == ["early"]
    queue.media(SECOND, 102.0)
    queue.mark("late", 104.0)
    assert [mark.name for mark in queue.due(104.0)] == ["late"]


def test_a_late_mark_keeps_its_moment_when_new_audio_begins(queue: Playout):
    queue.media(SECOND, 101.0)
    queue.mark("late", 101.0, delay_ms=300)
    queue.media(SECOND, 102.1)
    assert queue.next_due() == pytest.approx(102.3)


def test_a_clear_cuts_at_the_byte_and_gives_all_marks_back(queue: Playout):
    queue.media(SECOND, 101.0)
    queue.mark("heard", 101.0, delay_ms=5000)
    queue.media(SECOND, 101.0)
    queue.mark("unheard", 101.0)
    clear = queue.clear(102.5001)
    assert (clear.at, clear.heard_to, clear.received_to) == (102.5001, 12000, 16000)
    assert clear.at_ms == pytest.approx(2500.1)
    assert [(mark.name, mark.cleared) for mark in queue.due(102.5001)] == [("heard", False), ("unheard", True)]
    assert spans(queue, 110.0) == [(1000, 2500, 0, 12000)]
    assert queue.queued_ms(102.6) == 0


def test_after_a_clear_what_comes_next_plays_at_once(queue: Playout):
    queue.media(SECOND, 101.0)
    queue.clear(101.5)
    queue.media(SECOND, 101.6)
    queue.mark("new", 101.6)
    assert queue.next_due() == pytest.approx(102.6)
    assert spans(queue, 102.0) == [(1000, 1500, 0, 4000), (1600, 2000, 8000, 11200)]


def test_a_clear_of_nothing_drops_nothing(queue: Playout):
    assert (queue.clear(101.0).heard_to, queue.clears[0].received_to) == (0, 0)
    queue.media(SECOND, 102.0)
    clear = queue.clear(104.0)
    assert (clear.heard_to, clear.received_to) == (8000, 8000)
    assert spans(queue, 105.0) == [(2000, 3000, 0, 8000)]


def test_a_stopped_stream_gives_no_marks_back_and_plays_nothing_more(queue: Playout):
    queue.media(SECOND, 101.0)
    queue.mark("never", 101.0)
    queue.stop(101.25)
    assert queue.next_due() is None
    assert spans(queue, 110.0) == [(1000, 1250, 0, 2000)]
    assert queue.clears == []


def test_how_much_was_heard_since(queue: Playout):
    queue.media(SECOND, 101.0)
    queue.media(SECOND, 103.0)
    assert queue.heard(0, 103.5) == (1500, 3500)
    assert queue.heard(1500, 103.5) == (1000, 3500)
    assert queue.heard(2500, 102.9) == (0, None)
    assert queue.heard(0, 109.0) == (2000, 4000)


def test_what_the_ear_heard(queue: Playout):
    queue.media(b"\x01" * 800, 100.05)
    queue.media(b"\x02" * 800, 100.05)
    queue.clear(100.2)
    queue.media(b"\x03" * 800, 100.25)
    heard = queue.audio(2400, 100.30001)
    assert heard == (SILENCE * 400 + b"\x01" * 800 + b"\x02" * 400 + SILENCE * 400 + b"\x03" * 400)
    assert queue.audio(100, 100.3) == SILENCE * 100


def test_an_hour_is_kept_and_no_more(queue: Playout, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(playout, "MAX_CALL_MS", 1500)
    queue.media(SECOND, 101.0)
    queue.media(SECOND, 101.0)
    queue.media(SECOND, 110.0)
    assert len(queue.received) == 12000
    assert queue.received_log == [(101.0, 8000), (101.0, 12000)]
    assert spans(queue, 120.0) == [(1000, 2500, 0, 12000)]


def test_marks_are_bounded(queue: Playout, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(playout, "MAX_MARKS", 3)
    for number in range(5):
        queue.mark(str(number), 101.0)
    assert len(queue.marks) == 3


@given(st.lists(st.tuples(st.sampled_from(["media", "mark", "clear", "wait"]), st.integers(0, 1000)), max_size=40))
def test_whatever_happens_the_books_balance(steps: list[tuple[str, int]]):
    queue, now, names = Playout(100.0), 100.0, 0
    returned = []
    for what, figure in steps:
        match what:
            case "media":
                queue.media(bytes(figure), now)
            case "mark":
                queue.mark(str(names), now)
                names += 1
            case "clear":
                queue.clear(now)
            case "wait":
                now += figure / 1000
        returned += queue.due(now)
    now += 60
    returned += queue.due(now)
    assert [mark.name for mark in returned] == [str(number) for number in range(names)]
    heard: list[Span] = queue.spans(now)
    dropped = sum(clear.received_to - clear.heard_to for clear in queue.clears)
    assert sum(span.stream_end - span.stream_start for span in heard) + dropped == len(queue.received)
    for span in heard:
        assert span.end_ms - span.start_ms == pytest.approx((span.stream_end - span.stream_start) / 8)
    for before, after in pairwise(heard):
        assert before.end_ms <= after.start_ms + 0.2
        assert before.stream_end <= after.stream_start
