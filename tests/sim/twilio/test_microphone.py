"""The caller's lines, cut into frames: in order, padded, and broken off."""

from __future__ import annotations

import asyncio
import base64

import pytest

from phoneagent.protocol.audio import FRAME_BYTES, SILENCE, tone
from phoneagent.sim.twilio.microphone import Microphone, Utterance

pytestmark = pytest.mark.anyio

FRAME = bytes(range(FRAME_BYTES))


async def begin(microphone: Microphone, audio: bytes, text: str | None = None) -> asyncio.Task[Utterance]:
    """Start to say something, up to the point where frames can be taken."""
    task = asyncio.create_task(microphone.say(audio, text))
    await asyncio.sleep(0)
    return task


def taken(microphone: Microphone, number: int) -> bytes | None:
    payload = microphone.frame(number)
    return None if payload is None else base64.b64decode(payload)


async def test_without_speech_there_is_only_silence() -> None:
    microphone = Microphone()

    assert microphone.frame(0) is None
    assert microphone.speech == []
    assert microphone.audio(2 * FRAME_BYTES) == SILENCE * 2 * FRAME_BYTES


async def test_a_line_is_padded_to_whole_frames_and_keeps_its_place() -> None:
    microphone = Microphone()
    saying = await begin(microphone, FRAME + b"\x01\x02", "two frames")

    assert taken(microphone, 5) == FRAME
    assert not saying.done()
    assert taken(microphone, 6) == b"\x01\x02" + SILENCE * (FRAME_BYTES - 2)
    utterance = await saying
    assert utterance == Utterance("two frames", 100, 140)
    assert microphone.speech == [utterance]
    assert microphone.frame(7) is None


async def test_an_empty_line_takes_one_silent_frame() -> None:
    microphone = Microphone()
    saying = await begin(microphone, b"")

    assert taken(microphone, 0) == SILENCE * FRAME_BYTES
    assert await saying == Utterance(None, 0, 20)


async def test_lines_wait_for_one_another() -> None:
    microphone = Microphone()
    first, second = await begin(microphone, FRAME, "first"), await begin(microphone, FRAME, "second")

    microphone.frame(0)
    assert (await first).text == "first"
    assert not second.done()
    microphone.frame(1)
    assert await second == Utterance("second", 20, 40)


async def test_a_pause_breaks_off_the_line_that_is_spoken_and_keeps_the_others() -> None:
    microphone = Microphone()
    first, second = await begin(microphone, FRAME * 10, "first"), await begin(microphone, FRAME, "second")
    for number in range(3):
        microphone.frame(number)

    microphone.pause()

    assert await first == Utterance("first", 0, 60)
    assert not second.done()
    microphone.frame(50)  # the next stream of the call
    assert await second == Utterance("second", 1000, 1020)


async def test_a_pause_leaves_a_line_that_has_not_begun() -> None:
    microphone = Microphone()
    saying = await begin(microphone, FRAME, "later")

    microphone.pause()
    assert not saying.done()
    microphone.frame(0)
    assert (await saying).text == "later"


async def test_the_end_of_the_call_breaks_off_everything() -> None:
    microphone = Microphone()
    begun, waiting = await begin(microphone, FRAME * 10, "begun"), await begin(microphone, FRAME, "waiting")
    microphone.frame(0)

    microphone.shut(500.0)

    assert await begun == Utterance("begun", 0, 20)
    assert await waiting == Utterance("waiting", 500.0, 500.0)
    assert [each.text for each in microphone.speech] == ["begun"]  # words that were never said are no speech
    assert microphone.frame(1) is None


async def test_a_cancelled_line_ends_where_it_was() -> None:
    microphone = Microphone()
    saying = await begin(microphone, FRAME * 10, "cut")
    following = await begin(microphone, FRAME, "next")
    microphone.frame(0)
    microphone.frame(1)

    saying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saying

    assert microphone.speech == [Utterance("cut", 0, 40)]
    microphone.frame(2)
    assert await following == Utterance("next", 40, 60)


async def test_the_track_has_silence_between_the_words_and_ends_in_time() -> None:
    microphone = Microphone()
    spoken = tone(300, 40)
    await begin(microphone, spoken)
    microphone.frame(1)
    microphone.frame(2)

    assert microphone.audio(4 * FRAME_BYTES) == SILENCE * FRAME_BYTES + spoken + SILENCE * FRAME_BYTES
    assert microphone.audio(FRAME_BYTES + 8) == SILENCE * FRAME_BYTES + spoken[:8]
    assert microphone.audio(0) == b""
