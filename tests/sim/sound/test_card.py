"""The shell around PortAudio, with a fake card: formats, hand-over between the threads, and every way to fail."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import threading
import time
from contextlib import asynccontextmanager

import pytest

from phoneagent.protocol.audio import audioop, decode_ulaw, tone
from phoneagent.sim.sound import card as card_module
from phoneagent.sim.sound.card import Loudspeaker, Pickup, load_backend, open_card
from phoneagent.sim.sound.devices import SoundError, list_devices
from tests.patience import HANG_SECONDS
from tests.sim.sound.fake_card import FakeBackend, PortAudioError

pytestmark = pytest.mark.anyio

VOICE = tone(440, 200)


class Ends:
    """Both ends of a card: what the microphone gave, and what the loudspeaker is to play."""

    def __init__(self, to_play: bytes = b"") -> None:
        self.heard = bytearray()
        self.moments: list[float] = []
        self.played = 0
        self._to_play = to_play
        self.ear, self.mouth = self, self

    def hear(self, ulaw: bytes) -> None:
        self.heard += ulaw

    def play(self, count: int, moment: float) -> bytes:
        self.moments.append(moment)
        audio, self._to_play = self._to_play[:count], self._to_play[count:]
        return audio

    def note(self) -> None:
        self.played += 1


class Taker:
    """An object with `take` for a function."""

    def __init__(self, take) -> None:
        self.take = take


@asynccontextmanager
async def opened(backend: FakeBackend, ends: Ends, *, output: int = 0):
    devices = list_devices(backend)
    async with open_card(
        backend,
        Taker(ends.hear),
        Taker(ends.play),
        ends.note,
        input_device=devices[0],
        output_device=devices[output],
    ) as card:
        yield card


def in_thread(function, *arguments, **options):
    """Run a callback as PortAudio does: in a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments, **options)))
    thread.start()
    thread.join()
    return results[0]


async def test_telephone_audio_passes_as_it_is():
    ends, backend = Ends(VOICE), FakeBackend()
    async with opened(backend, ends) as card:
        microphone, loudspeaker = backend.streams
        assert (microphone.rate_hz, microphone.channels, microphone.running) == (8000, 1, True)
        in_thread(microphone.record, decode_ulaw(VOICE), late_seconds=0.02)
        before = time.monotonic()
        assert in_thread(loudspeaker.play, late_seconds=0.05) == decode_ulaw(VOICE[:80])
        assert before <= ends.moments[0] - 0.05 <= time.monotonic()
        assert ends.heard == b"", "the event loop has the audio when it runs, not before"
        await asyncio.sleep(0)
        assert ends.heard == VOICE
        assert ends.played == 1
        assert card.state.input_ms == pytest.approx(20)
        assert card.state.output_ms == pytest.approx(50)
        assert (card.state.input_name, card.state.output_hz) == ("Fake headset", 8000)
    assert not microphone.running
    assert not card.lost.done(), "an end that was asked for is no loss"


async def test_a_card_without_8_khz_is_resampled():
    ends, backend = Ends(VOICE), FakeBackend()
    backend.refused = {(8000, 1), (8000, 2), (48000, 1)}
    async with opened(backend, ends, output=1) as card:
        _, loudspeaker = backend.streams[-2:]
        assert (card.state.input_hz, card.state.output_hz) == (44100, 48000)
        pcm = b"".join(in_thread(loudspeaker.play) for _ in range(30))
        left = audioop.tomono(pcm, 2, 1, 0)
        assert len(left) == 2 * 48000 * 300 // 1000
        assert left == audioop.tomono(pcm, 2, 0, 1)
        assert audioop.rms(left[9600:16000], 2) == pytest.approx(audioop.rms(decode_ulaw(VOICE), 2), rel=0.1)
        assert audioop.rms(left[-4800:], 2) < 100, "silence follows"


async def test_what_each_block_plays_has_its_own_moment():
    ends = Ends(VOICE)
    speaker = Loudspeaker(Taker(ends.play), 48000, 1, lambda late: None)
    speaker.fill(2400, 0.1, 10.0)
    assert ends.moments[0] == pytest.approx(10.1)
    assert all(earlier < later <= 10.16 for earlier, later in zip(ends.moments, ends.moments[1:], strict=False))


@pytest.mark.parametrize(("late", "moment"), [(-3.0, 10.0), (500.0, 11.0)])
async def test_a_driver_that_says_nonsense_of_the_time(late: float, moment: float):
    ends = Ends(VOICE)
    Loudspeaker(Taker(ends.play), 8000, 1, lambda late: None).fill(80, late, 10.0)
    assert ends.moments == [moment]


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (8000, 2), (48000, 1), (44100, 2)])
async def test_a_microphone_of_any_format(rate: int, channels: int):
    pcm, _ = audioop.ratecv(decode_ulaw(VOICE), 2, 1, 8000, rate, None)
    pcm = pcm if channels == 1 else audioop.tostereo(pcm, 2, 1, 1)
    pickup, block = Pickup(rate, channels), rate // 50 * 2 * channels
    heard = b"".join(pickup.convert(pcm[at : at + block]) for at in range(0, len(pcm), block))
    assert len(heard) == pytest.approx(len(VOICE), abs=400)
    assert audioop.rms(decode_ulaw(heard[400:1200]), 2) == pytest.approx(audioop.rms(decode_ulaw(VOICE), 2), rel=0.1)


async def test_lost_blocks_are_counted():
    ends, backend = Ends(), FakeBackend()
    async with opened(backend, ends) as card:
        microphone, loudspeaker = backend.streams
        in_thread(microphone.record, bytes(160), xrun=True)
        assert in_thread(loudspeaker.play, xrun=True) == bytes(160)
        await asyncio.sleep(0)
        assert card.state.xruns == 2


async def test_a_card_that_is_busy():
    backend = FakeBackend()
    backend.busy = True
    with pytest.raises(SoundError, match=r"input device 0 \(Fake headset\).*unavailable.*another program uses it"):
        async with opened(backend, Ends()):
            pass


async def test_a_card_that_takes_no_format_closes_what_was_open():
    backend = FakeBackend()
    backend.refused = {(rate, channels) for rate in (8000, 48000) for channels in (1, 2)}
    with pytest.raises(SoundError, match=r"output device 1 \(Fake monitor\).*Invalid sample rate.*choose another"):
        async with opened(backend, Ends(), output=1):
            pass
    assert not any(each.running for each in backend.streams)


@pytest.mark.parametrize(("number", "name"), [(0, "input"), (1, "output")])
async def test_a_stream_that_does_not_start(number: int, name: str):
    backend = FakeBackend()
    backend.unstartable = number
    with pytest.raises(SoundError, match=rf"the {name} device 0 \(Fake headset\) cannot be started: .*host error"):
        async with opened(backend, Ends()):
            pass
    assert not any(each.running for each in backend.streams)


async def test_a_card_that_is_unplugged():
    backend = FakeBackend()
    async with opened(backend, Ends()) as card:
        in_thread(backend.streams[1].unplug)
        assert "output was lost: unplugged?" in await asyncio.wait_for(card.lost, HANG_SECONDS)


async def test_a_card_that_no_longer_calls_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(card_module, "STALL_SECONDS", 0.05)
    async with opened(FakeBackend(), Ends()) as card:
        assert "has stopped" in await asyncio.wait_for(card.lost, HANG_SECONDS)


async def test_a_machine_that_stops_for_a_moment_loses_no_card(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(card_module, "STALL_SECONDS", 1.0)
    backend = FakeBackend()
    async with opened(backend, Ends(VOICE)) as card:
        await asyncio.sleep(0.01)  # it is being watched
        time.sleep(1.3)  # noqa: ASYNC251 - the card's own thread stops as well
        for _ in range(5):
            await asyncio.sleep(0)  # the look that was due
        in_thread(backend.streams[0].record, bytes(160))
        in_thread(backend.streams[1].play)
        await asyncio.sleep(0)
        assert not card.lost.done()


def test_a_callback_after_the_end_of_the_loop_is_ignored():
    backend = FakeBackend()

    async def call() -> None:
        async with opened(backend, Ends()):
            pass

    asyncio.run(call())
    in_thread(backend.streams[0].record, bytes(160))
    assert in_thread(backend.streams[1].play) == bytes(160)


def test_no_sounddevice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SoundError, match=r"sounddevice is not installed: .*phoneagent\[talk\]"):
        load_backend()


def test_no_portaudio(monkeypatch: pytest.MonkeyPatch):
    def fail(name: str) -> None:
        raise OSError("PortAudio library not found")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(SoundError, match=r"library not found.*apt-get install libportaudio2"):
        load_backend()


def test_a_portaudio_that_does_not_start(monkeypatch: pytest.MonkeyPatch):
    def fail(name: str) -> None:
        raise PortAudioError("Error initializing PortAudio: Host API not found", -9979)

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(SoundError, match=r"PortAudio does not start \(.*Host API not found.*\): check"):
        load_backend()


def test_the_backend_is_loaded_without_a_word(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    module = FakeBackend()

    def load(name: str) -> FakeBackend:
        os.write(2, b"ALSA lib confmisc.c: cannot find card '0'")
        return module

    monkeypatch.setattr(importlib, "import_module", load)
    assert load_backend() is module
    assert capfd.readouterr().err == ""
