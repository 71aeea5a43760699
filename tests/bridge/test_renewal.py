"""A model session whose time is nearly over, and the next one, which takes over unnoticed."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from phoneagent.bridge.clock import CallClock
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.deadlines import PATIENCE_SECONDS
from phoneagent.bridge.history import Past
from phoneagent.bridge.policy import Policy
from phoneagent.bridge.renewal import (
    FIRST_PAUSE_SECONDS,
    LAST_PAUSE_SECONDS,
    LOOK_SECONDS,
    MAX_FRUITLESS,
    MAX_LOSSES_A_MINUTE,
    OPEN_AGAIN_SECONDS,
    OPENING_SECONDS,
    QUICK_SECONDS,
    QUIET_SECONDS,
    ROTATE_SECONDS,
    SPREAD_SECONDS,
    Renewal,
    Rotation,
)
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.requests import OpenNext, Renew, Verdict
from phoneagent.bridge.transcript import Transcript
from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import Audio, Clear
from tests.bridge.rig import Rig

HOUR = 3600.0


@pytest.fixture
def rig() -> Rig:
    rig = Rig(renews=True, connect=False, max_call_seconds=4 * HOUR)
    connect(rig)
    return rig


def connect(rig: Rig, lasts: float | None = HOUR) -> None:
    rig.bridge.model_connected(rig.now, lasts)
    rig.flush()


def ready(rig: Rig, *, ready: bool = True) -> None:
    rig.bridge.renewal.next_opened(rig.now, ready=ready)
    rig.flush()


def asked(rig: Rig) -> list[str]:
    return [type(request).__name__ for request in rig.asked]


def test_the_next_session_is_opened_in_time_and_takes_over_in_a_silence(rig: Rig) -> None:
    rig.talk(HOUR - ROTATE_SECONDS - 1)
    assert asked(rig) == []
    rig.talk(1.5)
    assert asked(rig) == ["OpenNext"]
    ready(rig)
    rig.talk(QUIET_SECONDS + 3 * LOOK_SECONDS)
    assert rig.asked == [OpenNext(), Renew(elsewhere=False)]
    assert rig.bridge.model_away(rig.now, "it was given up")  # as the shell says when its reader ends
    connect(rig)
    assert rig.troubles == []
    assert rig.sent(Clear) == rig.sent(Audio) == rig.creates == []
    rig.talk(ROTATE_SECONDS)
    assert len(rig.asked) == 2


def test_it_waits_until_a_second_after_the_last_word(rig: Rig) -> None:
    rig.talk(HOUR - ROTATE_SECONDS)
    ready(rig)
    rig.speech()
    rig.talk(5)
    rig.turn("u1")
    rig.model(realtime.InputTranscript(item_id="u1", transcript="A table?"))
    rig.created("r1", ours=False)
    rig.talk(5)
    rig.audio(2000)
    rig.audio_done()
    rig.done()
    rig.talk(2)
    rig.hear()
    assert asked(rig) == ["OpenNext"]
    rig.talk(QUIET_SECONDS - LOOK_SECONDS)
    assert asked(rig) == ["OpenNext"]
    rig.talk(3 * LOOK_SECONDS)
    assert asked(rig) == ["OpenNext", "Renew"]


def test_a_word_that_has_just_begun_is_heard_by_the_next_one(rig: Rig) -> None:
    rig.talk(HOUR - ROTATE_SECONDS)
    ready(rig)
    while asked(rig) != ["OpenNext", "Renew"]:
        rig.wait(0.02)
        rig.media()
    before = len(rig.sent(realtime.AudioAppend))
    connect(rig)
    again = len(rig.sent(realtime.AudioAppend)) - before
    assert again >= 50 + 1  # a second of it at least, and what came meanwhile


def test_one_that_does_not_come_is_tried_again(rig: Rig) -> None:
    rig.talk(HOUR - ROTATE_SECONDS)
    ready(rig, ready=False)
    rig.talk(OPEN_AGAIN_SECONDS - 1)
    assert asked(rig) == ["OpenNext"]
    rig.talk(1.5)
    assert asked(rig) == ["OpenNext", "OpenNext"]


def test_a_session_that_is_lost_before_is_renewed_as_ever(rig: Rig) -> None:
    rig.talk(HOUR - ROTATE_SECONDS)
    ready(rig)
    rig.speech()
    rig.error("session_expired")
    assert rig.asked == [OpenNext(), Renew(elsewhere=False)]
    connect(rig, HOUR)
    rig.talk(ROTATE_SECONDS)
    assert len(rig.asked) == 2


def test_a_call_of_many_hours_rotates_again_and_again() -> None:
    rig = Rig(renews=True, connect=False, max_call_seconds=5 * HOUR)
    connect(rig)
    done = 0
    for _ in range(4 * 60 - 2):
        rig.talk(60)
        for request in rig.asked[done:]:
            if isinstance(request, OpenNext):
                ready(rig)
            else:
                assert isinstance(request, Renew)
                connect(rig)
        done = len(rig.asked)
    assert asked(rig) == ["OpenNext", "Renew"] * 4
    assert not rig.bridge.ended
    assert rig.troubles == []


@pytest.mark.parametrize("lasts", [None, 0.0, -5.0, 30.0])
def test_a_session_of_unknown_length_is_not_rotated(lasts: float | None) -> None:
    rig = Rig(renews=True, connect=False)
    connect(rig, lasts)
    rig.talk(3000)
    assert rig.asked == []


def test_a_short_session_is_rotated_in_its_second_half() -> None:
    rotation = Rotation()
    rotation.begin(100, 80)
    assert rotation.get_timer() == 140
    assert rotation.handle_timer(139.9, quiet=True) is None
    assert rotation.handle_timer(140, quiet=True) == "open"


# --- by itself ---


def test_what_opens_after_the_session_was_lost_takes_nothing_over() -> None:
    rotation = Rotation()
    rotation.begin(100, HOUR)
    rotation.end()
    rotation.opened(200, ready=True)
    assert rotation.get_timer() is None
    assert rotation.handle_timer(1e9, quiet=True) is None


class Bench:
    """The sessions of a call, without the call: at 100 s the stream begins."""

    def __init__(self, *, renews: bool = True, past: Past | None = None, greeting: str | None = None) -> None:
        self.requests: deque[Any] = deque()
        self.quiet_at: list[float] = []
        self.conversation = Conversation(self.requests.append, Reporter("CA1", CallClock()))
        policy = Policy(renews=renews, greeting=greeting)
        self.renewal = Renewal(policy, past, self.requests, quiet=self.quiet)
        self.renewal.started(100.0)

    def quiet(self, now: float) -> bool:
        self.quiet_at.append(now)
        return True

    def begin(self, now: float = 101.0) -> list[str]:
        """A session begins; return what it was told."""
        self.renewal.connect(now, HOUR)
        self.renewal.begin(self.conversation, Transcript(CallClock()), CallClock(), now)
        self.conversation.connect(now)
        self.conversation.move_on(now)
        told = [message.item for message in self.conversation.outbox if isinstance(message, realtime.ItemCreate)]
        self.conversation.outbox.clear()
        return [item["content"][0]["text"] for item in told]


def test_the_first_session_of_a_call_has_no_past() -> None:
    bench = Bench(greeting="Hello!")
    assert bench.renewal.pending is None
    (greeting,) = bench.begin()
    assert "Hello!" in greeting
    assert bench.renewal.begun


def test_the_next_session_goes_on_with_what_was_open() -> None:
    bench = Bench()
    bench.begin()
    bench.renewal.new_session(owes=True, words_lost=False)
    assert (bench.renewal.begun, bench.renewal.pending) == (False, "answer")
    assert "go on where you were cut off" in bench.begin(102.0)[-1]
    assert bench.renewal.pending is None


def test_an_interruption_between_two_sessions_leaves_nothing_open() -> None:
    bench = Bench()
    bench.renewal.interrupted(bench.conversation.responses)  # there was no session yet
    assert bench.renewal.pending is None
    bench.begin()
    bench.renewal.new_session(owes=True, words_lost=False)
    bench.renewal.interrupted(bench.conversation.responses)
    assert bench.renewal.pending == "nothing"


def test_a_session_that_is_lost_before_it_begins_hands_on_what_was_open() -> None:
    bench = Bench(past=Past(pending="words"))
    bench.renewal.new_session(owes=False, words_lost=False)
    assert bench.renewal.pending == "words"


def test_the_line_is_looked_at_only_when_it_is_due() -> None:
    bench = Bench()
    bench.begin()
    assert bench.renewal.handle_timer(200.0) is None
    assert bench.quiet_at == []
    due = bench.renewal.get_timer()
    assert due == 101.0 + HOUR - ROTATE_SECONDS
    assert bench.renewal.handle_timer(due) is None
    assert (list(bench.requests), bench.quiet_at) == ([OpenNext()], [due])
    bench.renewal.next_opened(due, ready=True)
    verdicts = []
    while (now := bench.renewal.get_timer()) is not None:
        verdicts.append(bench.renewal.handle_timer(now))
    assert verdicts[-1] == Verdict("take_over")
    assert not any(verdicts[:-1])


@pytest.mark.parametrize("renews", [True, False])
def test_a_session_rotates_only_where_another_can_be_opened(renews: bool) -> None:
    bench = Bench(renews=renews)
    bench.begin()
    assert (bench.renewal.get_timer() is not None) is renews
    bench.renewal.stop()
    assert bench.renewal.get_timer() is None


def test_patience_counts_from_the_loss() -> None:
    bench = Bench()
    bench.begin()
    assert bench.renewal.worthwhile(200.0)
    assert bench.renewal.worthwhile(200.0 + PATIENCE_SECONDS - OPENING_SECONDS - 0.1)
    assert not bench.renewal.worthwhile(200.0 + PATIENCE_SECONDS - OPENING_SECONDS)
    assert bench.renewal.losses == 1


def test_fruitless_sessions_are_counted_until_one_is_heard() -> None:
    bench = Bench()
    for number in range(MAX_FRUITLESS):
        bench.begin(200.0 + 10 * number)
        assert bench.renewal.worthwhile(205.0 + 10 * number)
    bench.begin(300.0)
    bench.renewal.was_heard()
    assert bench.renewal.worthwhile(305.0)
    for number in range(MAX_FRUITLESS - 1):
        bench.begin(400.0 + 10 * number)
        assert bench.renewal.worthwhile(405.0 + 10 * number)
    bench.begin(500.0)
    assert not bench.renewal.worthwhile(505.0)


def test_losses_are_counted_by_the_minute() -> None:
    bench = Bench()
    verdicts = []
    for number in range(MAX_LOSSES_A_MINUTE + 1):
        bench.begin(200.0 + number)
        bench.renewal.was_heard()
        verdicts.append(bench.renewal.worthwhile(200.5 + number))
    assert verdicts == [True] * MAX_LOSSES_A_MINUTE + [False]
    bench.begin(270.0)
    bench.renewal.was_heard()
    assert bench.renewal.worthwhile(270.5)


# --- how soon ---


def renewal() -> Renewal:
    return Renewal(Policy(renews=True), None, deque(), quiet=lambda now: True)


def lose(renewal: Renewal, now: float) -> None:
    """A session comes, says something, and is lost."""
    clock, responses = CallClock(), Conversation(print, Reporter("CA1", CallClock()))
    renewal.connect(now, None)
    renewal.begin(responses, Transcript(CallClock()), clock, now)
    renewal.was_heard()
    assert renewal.worthwhile(now)


def test_the_calls_of_a_provider_that_restarts_come_back_one_after_another() -> None:
    pauses = []
    for chance in (0.0, 0.3, 1.0):
        each = renewal()
        lose(each, 100.0)
        pauses.append(each.pause_seconds(100.0, chance))
    assert pauses == pytest.approx([0.0, 0.3 * SPREAD_SECONDS, SPREAD_SECONDS])


def test_sessions_that_are_accepted_and_dropped_are_spaced_out_although_they_speak() -> None:
    each = renewal()
    pauses = []
    for _ in range(6):
        lose(each, 100.0)
        pauses.append(each.pause_seconds(100.0, 1.0))
    assert pauses[:3] == pytest.approx([SPREAD_SECONDS, FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS])
    assert pauses[-1] == LAST_PAUSE_SECONDS
    lose(each, 100.0 + QUICK_SECONDS)
    assert each.pause_seconds(100.0 + QUICK_SECONDS, 1.0) == SPREAD_SECONDS  # that one has lasted
