"""The queue before a real loudspeaker. Time is an argument: the call starts at 100 s, the card takes 10 ms a block."""

from __future__ import annotations

import pytest

from phoneagent.sim.sound.card_playout import CardPlayout

SECOND = bytes(range(250)) * 32
BLOCK = 80


@pytest.fixture
def queue() -> CardPlayout:
    return CardPlayout(100.0)


def play(queue: CardPlayout, start: float, seconds: float, *, late: float = 0.05) -> bytes:
    """Let the card take blocks from `start` on, each `late` seconds before it plays."""
    return b"".join(queue.take(BLOCK, start + n * 0.01 + late) for n in range(round(seconds * 100)))


def spans(queue: CardPlayout, now: float) -> list[tuple[float, float, int, int]]:
    return [(round(s.start_ms), round(s.end_ms), s.stream_start, s.stream_end) for s in queue.spans(now)]


def test_nothing_is_heard_that_the_card_has_not_played(queue: CardPlayout):
    queue.media(SECOND, 101.0)
    assert queue.position(105.0) == 0
    assert queue.queued_ms(105.0) == 1000
    assert queue.spans(105.0) == []


def test_audio_counts_from_the_moment_when_the_card_plays_it(queue: CardPlayout):
    queue.media(SECOND, 101.0)
    assert play(queue, 101.0, 0.5) == SECOND[:4000]
    assert queue.position(101.05) == 0
    assert queue.position(101.3) == pytest.approx(2000)
    assert queue.queued_ms(101.3) == pytest.approx(750)
    assert spans(queue, 101.3) == [(1050, 1300, 0, 2000)]
    assert queue.position(109.0) == 4000, "no further than what the card has"


def test_a_card_without_audio_plays_silence_and_the_clock_waits(queue: CardPlayout):
    queue.media(SECOND[:800], 101.0)
    assert play(queue, 101.0, 0.3) == SECOND[:800]
    queue.mark("later", 101.3)
    queue.media(SECOND[800:1600], 101.5)
    assert play(queue, 101.5, 0.1) == SECOND[800:1600]
    assert spans(queue, 102.0) == [(1050, 1150, 0, 800), (1550, 1650, 800, 1600)]
    assert queue.underruns == 0, "the card was in time"
    assert queue.heard(0, 102.0) == (pytest.approx(200), pytest.approx(1650))


def test_a_jump_of_the_card_s_clock_is_a_gap_and_jitter_is_not(queue: CardPlayout):
    queue.media(SECOND, 101.0)
    queue.take(BLOCK, 101.00)
    queue.take(BLOCK, 101.04)
    assert spans(queue, 102.0) == [(1000, 1020, 0, 160)]
    queue.take(BLOCK, 101.50)
    assert spans(queue, 102.0) == [(1000, 1020, 0, 160), (1500, 1510, 160, 240)]
    assert queue.underruns == 1


def test_a_jump_back_makes_no_two_sounds_at_once(queue: CardPlayout):
    queue.media(SECOND, 101.0)
    play(queue, 101.0, 0.2)
    queue.take(BLOCK, 101.0)
    (_, first_end, _, _), (second_start, _, _, _) = spans(queue, 102.0)
    assert second_start >= first_end


def test_a_mark_is_due_when_the_card_has_played_what_is_before_it(queue: CardPlayout):
    queue.media(SECOND[:800], 101.0)
    queue.mark("first", 101.0)
    assert queue.next_due() is None, "the card has not taken it yet"
    assert queue.due(110.0) == []
    play(queue, 101.0, 0.1)
    assert queue.next_due() == pytest.approx(101.15)
    assert queue.due(101.149) == []
    assert [mark.name for mark in queue.due(101.1501)] == ["first"]
    assert queue.next_due() is None


def test_a_mark_with_nothing_before_it_is_due_at_once(queue: CardPlayout):
    queue.mark("empty", 101.0)
    assert [mark.name for mark in queue.due(101.0)] == ["empty"]
    queue.media(SECOND[:800], 102.0)
    play(queue, 102.0, 0.2)
    queue.mark("after", 103.0, delay_ms=0)
    assert [mark.name for mark in queue.due(103.0)] == ["after"]


def test_a_delayed_mark(queue: CardPlayout):
    queue.media(SECOND[:800], 101.0)
    queue.mark("slow", 101.0, delay_ms=500)
    play(queue, 101.0, 0.1)
    assert queue.next_due() == pytest.approx(101.65)


def test_a_clear_drops_what_the_card_has_not_taken(queue: CardPlayout):
    queue.media(SECOND, 101.0)
    queue.mark("half", 101.0)
    play(queue, 101.0, 0.5)
    cleared = queue.clear(101.5)
    assert (cleared.heard_to, cleared.received_to, cleared.at_ms) == (4000, 8000, pytest.approx(1500))
    assert [(mark.name, mark.cleared) for mark in queue.due(101.5)] == [("half", True)]
    assert queue.queued_ms(101.5) == pytest.approx(50), "what the card has is still heard"
    assert play(queue, 101.5, 0.2) == b""
    assert queue.position(101.6) == 8000
    assert spans(queue, 103.0) == [(1050, 1550, 0, 4000)]
    queue.media(SECOND[:800], 104.0)
    assert play(queue, 104.0, 0.1) == SECOND[:800]
    assert spans(queue, 105.0)[-1] == (4050, 4150, 8000, 8800)


def test_a_mark_that_was_heard_before_the_clear_is_not_cleared(queue: CardPlayout):
    queue.media(SECOND[:800], 101.0)
    queue.mark("heard", 101.0)
    queue.media(SECOND, 101.0)
    play(queue, 101.0, 0.5)
    queue.clear(101.5)
    assert [mark.cleared for mark in queue.marks] == [False]


def test_the_end_of_the_stream_drops_audio_and_marks(queue: CardPlayout):
    queue.media(SECOND, 101.0)
    queue.mark("never", 101.0)
    queue.stop(101.1)
    assert queue.take(BLOCK, 101.2) == b""
    assert queue.due(200.0) == []
    assert queue.next_due() is None


def test_the_heard_audio_is_laid_out_on_the_call_s_clock(queue: CardPlayout):
    queue.media(SECOND[:800], 100.0)
    play(queue, 100.0, 0.1)
    track = queue.audio(2000, 101.0)
    assert track[:400] == b"\xff" * 400
    assert track[400:1200] == SECOND[:800]


def test_it_is_audible_while_it_plays_and_for_its_echo(queue: CardPlayout):
    queue.media(SECOND[:800], 101.0)
    play(queue, 101.0, 0.2)
    assert not queue.audible(101.04, 100)
    assert queue.audible(101.1, 100)
    assert queue.audible(101.24, 100)
    assert not queue.audible(101.26, 100)


def test_an_hour_is_kept(queue: CardPlayout, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("phoneagent.sim.sound.card_playout.MAX_CALL_MS", 50)
    monkeypatch.setattr("phoneagent.sim.sound.card_playout.MAX_MARKS", 1)
    queue.media(SECOND, 101.0)
    queue.media(SECOND, 101.0)
    assert len(queue.received) == 400
    queue.mark("one", 101.0)
    queue.mark("two", 101.0)
    assert len(queue.marks) == 1
