from __future__ import annotations

import base64
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.bridge import tape as module
from phoneagent.bridge.tape import AgentAudio, CallerFrame, Cleared, Entry, Silenced, Tape
from phoneagent.protocol.audio import FRAME_BYTES, SILENCE
from phoneagent.sim.twilio.playout import Playout

START = 100.0
"""When the first frame's 20 ms begin; frames have other timestamps, as Twilio's have."""


def coded(audio: bytes) -> str:
    return base64.b64encode(audio).decode()


def frame(number: int, *, late: float = 0.0, byte: int | None = None, at_ms: int | None = None) -> CallerFrame:
    """The n-th frame, which is sent when it was spoken."""
    audio = bytes([number % 200 if byte is None else byte]) * FRAME_BYTES
    at = 130 + 20 * number if at_ms is None else at_ms
    return CallerFrame(START + (number + 1) / 50 + late, coded(audio), FRAME_BYTES, at)


def agent(seconds: float, audio: bytes) -> AgentAudio:
    return AgentAudio(START + seconds, coded(audio))


def sides(*entries: Entry, until: float) -> tuple[bytes, bytes]:
    tape = Tape(START)
    for entry in sorted(entries, key=lambda each: each.now):
        tape.add(entry)
    both = tape.take(START + until, final=True)
    return both[::2], both[1::2]


def lengths(audio: bytes) -> list[tuple[int, int]]:
    """Each byte, and how often it comes in a row."""
    return [(byte, len(list(group))) for byte, group in itertools.groupby(audio)]


# --- the caller ---


def test_frames_are_where_their_timestamps_say() -> None:
    left, right = sides(*(frame(number) for number in range(3)), until=0.06)
    assert lengths(left) == [(0, 160), (1, 160), (2, 160)]
    assert right == SILENCE * 480


def test_a_hole_is_silence_and_jitter_is_none() -> None:
    entries = [frame(0), frame(1, at_ms=155), frame(2, at_ms=163), frame(5)]
    assert lengths(sides(*entries, until=0.12)[0]) == [(0, 160), (1, 160), (2, 160), (255, 320), (5, 160)]


def test_what_came_before_comes_once() -> None:
    entries = [frame(0), frame(1), frame(1, at_ms=130, byte=9), frame(3)]
    assert lengths(sides(*entries, until=0.08)[0]) == [(0, 160), (1, 160), (255, 160), (3, 160)]


@pytest.mark.parametrize("at_ms", [0, 8_000, 10_000, 20_000, 4_000_000_000])
def test_a_clock_that_jumps_moves_nothing(at_ms: int) -> None:
    jumped = [frame(500 + number, at_ms=at_ms + 20 * number) for number in range(3)]
    left, _ = sides(*(frame(number) for number in range(500)), *jumped, until=503 / 50)
    assert len(left) == 503 * 160
    assert lengths(left[-480:]) == [(each % 200, 160) for each in range(500, 503)]


def test_a_secret_frame_is_silence() -> None:
    secret = frame(1)._replace(payload=None)
    assert lengths(sides(frame(0), secret, frame(2), until=0.06)[0]) == [(0, 160), (255, 160), (2, 160)]


# --- the agent ---


def test_audio_is_played_when_it_is_written_or_after_what_is_queued() -> None:
    entries = [frame(0), agent(0.1, b"a" * 800), agent(0.11, b"b" * 80), agent(0.5, b"c" * 80)]
    _, right = sides(*entries, until=0.6)
    assert lengths(right) == [(255, 800), (97, 800), (98, 80), (255, 2320), (99, 80), (255, 720)]


def test_a_clear_drops_what_was_not_heard() -> None:
    entries = [frame(0), agent(0.1, b"a" * 8000), Cleared(START + 0.2), agent(0.3, b"b" * 80)]
    _, right = sides(*entries, until=0.4)
    assert lengths(right) == [(255, 800), (97, 800), (255, 800), (98, 80), (255, 720)]


def test_what_was_playing_before_the_tape_began_is_heard_from_there() -> None:
    entries = [agent(-0.005, b"a" * 40 + b"b" * 800), frame(0)]
    assert lengths(sides(*entries, until=0.1)[1]) == [(98, 800)]


def test_the_frame_that_took_the_least_time_tells_when_audio_was_heard() -> None:
    late = [frame(number, late=0.05) for number in range(10)]
    entries = [*late, *(frame(number) for number in range(12, 40)), agent(0.8, b"a" * 80)]
    tape = Tape(START)
    for entry in sorted(entries, key=lambda each: each.now):
        tape.add(entry)
    both = tape.take(START + 1.0, final=True)
    assert both[1::2].index(b"a") == 6400
    assert lengths(both[0::2])[0] == (0, 160)


def test_clocks_that_drift_apart_are_followed() -> None:
    seconds, drift = 120, 0.001  # the caller's clock is behind by a thousandth
    frames = [frame(number)._replace(now=START + (number + 1) / 50 * (1 + drift)) for number in range(seconds * 50)]
    _, right = sides(*frames, agent(seconds - 0.5, b"a" * 80), until=seconds)
    behind = (seconds - 0.5) * 8000 - right.index(b"a")
    assert abs(behind - (seconds - 0.5) * 8000 * drift) < 2 * module.WINDOW_SECONDS * 8000 * drift + 2


@given(
    st.lists(
        st.tuples(st.integers(1, 4000), st.one_of(st.none(), st.integers(1, 5000))),
        max_size=40,
    )
)
def test_it_is_what_a_phone_plays(steps: list[tuple[int, int | None]]) -> None:
    """Audio (its length) or a clear (None), each so many samples after the one before."""
    playout, tape, now = Playout(START), Tape(START), START
    tape.add(frame(0))
    taken, position = bytearray(), 0
    for number, (wait, length) in enumerate(steps):
        position += wait
        now = START + (position + (0.5 if length is None else 0.25)) / 8000  # far from where rounding errors matter
        if length is None:
            playout.clear(now)
            tape.add(Cleared(now))
        else:
            audio = bytes([number]) * length
            playout.media(audio, now)
            tape.add(AgentAudio(now, coded(audio)))
        taken += tape.take(now)
    taken += tape.take(now + 1, final=True)
    right = bytes(taken[1::2])
    heard = playout.audio(len(right), now + 1)
    assert len(right) == position + 8000 if steps else 8000
    assert right == heard


# --- taking ---


def test_nothing_is_taken_before_it_is_certain() -> None:
    tape = Tape(START)
    assert tape.take(START + 1) == b""
    tape.add(frame(0))
    tape.add(agent(0.02, b"a" * 8000))
    assert len(tape.take(START + 0.5)) == 320  # the caller's next frames may still come
    tape.add(frame(1))
    tape.add(frame(2))
    assert len(tape.take(START + 0.05)) == 2 * 240
    assert tape.seconds == 0.05
    assert tape.take(START + 0.04) == b""
    tape.add(Cleared(START + 0.06))
    assert lengths(tape.take(START + 0.1, final=True)[1::2]) == [(97, 80), (255, 320)]


def test_a_line_that_stalls_is_waited_for_but_not_forever() -> None:
    tape = Tape(START)
    tape.add(frame(0))
    tape.add(agent(1.0, b"a" * 80))
    assert len(tape.take(START + 14.9)) == 320
    both = tape.take(START + 15.1)
    assert len(both) == round(15.08 * 16000)
    assert both[1::2].count(b"a") == 80
    tape.add(frame(1))  # too late
    tape.add(frame(760))
    assert lengths(tape.take(START + 20, final=True)[::2])[-2:] == [(160, 160), (255, 38240)]


def test_without_a_frame_what_the_agent_said_is_there() -> None:
    assert lengths(sides(agent(0.1, b"a" * 80), until=0.2)[1]) == [(255, 800), (97, 80), (255, 720)]


# --- pauses ---


def test_a_pause_is_silence_on_both_sides() -> None:
    frames = [frame(number, byte=1) for number in range(50)]
    pauses = [Silenced(START + 0.2, on=True), Silenced(START + 0.4, on=False), Silenced(START + 0.9, on=True)]
    left, right = sides(*frames, agent(0.05, b"a" * 8000), *pauses, until=1.0)
    assert lengths(left) == [(1, 1600), (255, 1600), (1, 4000), (255, 800)]
    assert lengths(right) == [(255, 400), (97, 1200), (255, 1600), (97, 4000), (255, 800)]


def test_a_pause_lasts_however_often_audio_is_taken() -> None:
    tape, left = Tape(START), bytearray()
    for number in range(50):
        if number in (10, 30):
            tape.add(Silenced(START + number / 50, on=number == 10))
        tape.add(frame(number, byte=1))
        left += tape.take(START + (number + 1) / 50)[::2]
    assert lengths(bytes(left)) == [(1, 1600), (255, 3200), (1, 3200)]
