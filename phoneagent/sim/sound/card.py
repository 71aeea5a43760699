"""The sound card, through PortAudio: its microphone feeds a `CardMicrophone`, its loudspeaker plays a `CardPlayout`.

PortAudio calls back in threads of its own. The callbacks pass audio on and compute nothing else; they never wait for
the event loop.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import os
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from phoneagent.protocol.audio import FRAME_BYTES, SAMPLE_RATE, decode_ulaw, encode_ulaw
from phoneagent.sim.model.audio import best_resampler
from phoneagent.sim.sound.card_playout import MAX_LATE_SECONDS
from phoneagent.sim.sound.devices import Device, Kind, SoundError

with warnings.catch_warnings():
    # The standard library's audioop warns up to 3.12; audioop-lts brings the same module from 3.13 on.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

BLOCK_SECONDS = 0.01
"""The length of a block. Sound servers behind ALSA run dry with longer ones."""

STALL_SECONDS = 2.0
"""A card that has not called back for this long is gone: unplugged, or its sound server has ended."""

LATENCY_SECONDS = 0.08
"""The latency requested from the card; a sound server usually gives somewhat more."""

_SMOOTHING = 0.05
"""The weight of a new figure in the average latency."""

_INSTALL = "install it with pip install 'phoneagent[talk]'"
_PORTAUDIO = "on Debian and Ubuntu apt-get install libportaudio2, on Fedora dnf install portaudio"

_TAKEN = -9985
"""PortAudio's number for a device that is not available (`paDeviceUnavailable`)."""


class Ear(Protocol):
    """The receiver of the caller's audio, µ-law in blocks: a `CardMicrophone`."""

    def take(self, ulaw: bytes) -> None:
        """Take a block of audio."""


class Mouth(Protocol):
    """The source of the loudspeaker's audio: a `CardPlayout`."""

    def take(self, count: int, moment: float) -> bytes:
        """Return at most `count` bytes of µ-law, to be played from `moment` on."""


@dataclass(slots=True)
class CardState:
    """The state of an open card: its rates in Hz, its average latencies in ms, and its faults.

    `xruns` counts the blocks that PortAudio reports as lost or late.
    """

    input_name: str = ""
    output_name: str = ""
    input_hz: int = 0
    output_hz: int = 0
    input_ms: float = 0.0
    output_ms: float = 0.0
    xruns: int = 0


def load_backend() -> Any:
    """Return the module `sounddevice`, with PortAudio initialized.

    Raises:
        SoundError: one of the two is not installed, or PortAudio does not start.
    """
    try:
        with _quiet():
            backend = importlib.import_module("sounddevice")
            _silence_alsa()
            return backend
    except ModuleNotFoundError as error:
        raise SoundError(f"the package {error.name} is not installed: {_INSTALL}") from None
    except OSError as error:
        raise SoundError(f"PortAudio cannot be loaded ({error}): {_PORTAUDIO}") from None
    except Exception as error:  # the module has failed, so its PortAudioError cannot be named
        if type(error).__name__ != "PortAudioError":
            raise
        raise SoundError(f"PortAudio does not start ({error}): check this machine's sound system") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard the output of C libraries: ALSA complains about every device that a machine does not have."""
    with ExitStack() as stack:
        null = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, null)
        with suppress(OSError):
            kept = os.dup(2)
            stack.callback(os.close, kept)
            os.dup2(null, 2)
            stack.callback(os.dup2, kept, 2)
        yield


_AlsaHandler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p)
_discard = _AlsaHandler(lambda *_: None)
"""An error handler for ALSA. It lives as long as the process: ALSA keeps its address."""


def _silence_alsa() -> None:
    """Discard ALSA's output during a call; PortAudio counts its faults."""
    with suppress(OSError, AttributeError):  # no ALSA here
        ctypes.CDLL("libasound.so.2").snd_lib_error_set_handler(_discard)


class Loudspeaker:
    """The callback of an output stream: 8 kHz µ-law from `mouth`, at the card's rate and number of channels."""

    def __init__(self, mouth: Mouth, rate_hz: int, channels: int, played: Callable[[float], object]) -> None:
        self._mouth, self._channels, self._played = mouth, channels, played
        self._resampler = None if rate_hz == SAMPLE_RATE else best_resampler(SAMPLE_RATE, rate_hz)
        self._rate_hz = rate_hz
        self._pcm = bytearray()

    def fill(self, count: int, late_seconds: float, now: float) -> bytes:
        """Return the next `count` samples; the card plays the first one `late_seconds` after `now`."""
        late_seconds = min(max(late_seconds, 0.0), MAX_LATE_SECONDS)
        while len(self._pcm) < 2 * count:
            moment = now + late_seconds + len(self._pcm) / 2 / self._rate_hz
            # At the card's own rate, exactly what it asks for; else a frame, and the rest is kept for the next block.
            wanted = count - len(self._pcm) // 2 if self._resampler is None else FRAME_BYTES
            ulaw = self._mouth.take(wanted, moment)
            pcm = decode_ulaw(ulaw) + bytes(2 * (wanted - len(ulaw)))
            self._pcm += pcm if self._resampler is None else self._resampler.feed(pcm)
        block = bytes(self._pcm[: 2 * count])
        del self._pcm[: 2 * count]
        self._played(late_seconds)
        return block if self._channels == 1 else audioop.tostereo(block, 2, 1, 1)


class Pickup:
    """The callback of an input stream: the card's samples to 8 kHz µ-law."""

    def __init__(self, rate_hz: int, channels: int) -> None:
        self._channels = channels
        self._resampler = None if rate_hz == SAMPLE_RATE else best_resampler(rate_hz, SAMPLE_RATE)

    def convert(self, pcm: bytes) -> bytes:
        """Return a block from the card as µ-law."""
        if self._channels == 2:
            pcm = audioop.tomono(pcm, 2, 0.5, 0.5)
        return encode_ulaw(pcm if self._resampler is None else self._resampler.feed(pcm))


class Card:
    """Two open streams. `lost` is set, with a reason, when the card is gone; `state` has the latest figures."""

    def __init__(self, backend: Any, ear: Ear, mouth: Mouth, on_played: Callable[[], object]) -> None:
        self.state = CardState()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._backend, self._ear, self._mouth, self._on_played = backend, ear, mouth, on_played
        self._loop = asyncio.get_running_loop()
        self._called_at = {"input": time.monotonic(), "output": time.monotonic()}
        self._streams: list[Any] = []
        self._closing = False

    def open(self, input_device: Device, output_device: Device) -> None:
        """Open and start both streams.

        Raises:
            SoundError: one of them cannot be opened or started.
        """
        with _quiet():
            self._open("input", input_device)
            self._open("output", output_device)
            for stream, kind, device in zip(
                self._streams, ("input", "output"), (input_device, output_device), strict=True
            ):
                try:
                    stream.start()
                except self._backend.PortAudioError as error:
                    raise _refused(kind, device, "started", error) from None

    def close(self) -> None:
        """Stop both streams. Audio that the card has not played is dropped."""
        self._closing = True
        for stream in self._streams:
            with _quiet(), suppress(self._backend.PortAudioError):
                stream.abort()
                stream.close()

    async def watch(self) -> None:
        """Report the loss of a card that no longer calls back.

        Two looks in a row must find it silent: after a pause of the whole machine, the card has its turn first.
        """
        before: set[str] = set()
        while True:
            await asyncio.sleep(STALL_SECONDS / 4)
            now = time.monotonic()
            silent = {kind for kind, called_at in self._called_at.items() if now - called_at > STALL_SECONDS}
            for kind in silent & before:
                self._lose(f"the sound card's {kind} has stopped: was it unplugged?")
            before = silent

    def _open(self, kind: Kind, device: Device) -> None:
        error: Exception | None = None
        for rate_hz, channels in _formats(device, kind):
            stream_class = self._backend.RawInputStream if kind == "input" else self._backend.RawOutputStream
            try:
                stream = stream_class(
                    samplerate=rate_hz,
                    blocksize=round(rate_hz * BLOCK_SECONDS),
                    device=device.number,
                    channels=channels,
                    dtype="int16",
                    latency=LATENCY_SECONDS,
                    callback=self._input(rate_hz, channels) if kind == "input" else self._output(rate_hz, channels),
                    finished_callback=lambda: self._call(self._lose, f"the sound card's {kind} was lost: unplugged?"),
                )
            except self._backend.PortAudioError as problem:
                error = problem
                if _TAKEN in problem.args:
                    break
                continue
            self._streams.append(stream)
            if kind == "input":
                self.state.input_name, self.state.input_hz = device.name, rate_hz
            else:
                self.state.output_name, self.state.output_hz = device.name, rate_hz
            return
        raise _refused(kind, device, "opened", error)

    def _input(self, rate_hz: int, channels: int) -> Callable[..., None]:
        pickup = Pickup(rate_hz, channels)

        def callback(data: Any, count: int, times: Any, status: Any) -> None:
            ulaw = pickup.convert(bytes(data))
            self._call(self._take, ulaw, times.currentTime - times.inputBufferAdcTime, bool(status))

        return callback

    def _output(self, rate_hz: int, channels: int) -> Callable[..., None]:
        speaker = Loudspeaker(self._mouth, rate_hz, channels, lambda late: self._call(self._played, late))

        def callback(data: Any, count: int, times: Any, status: Any) -> None:
            late = times.outputBufferDacTime - times.currentTime
            data[:] = speaker.fill(count, late, time.monotonic())
            if status:
                self._call(self._count_xrun)

        return callback

    # In the event loop.

    def _take(self, ulaw: bytes, late_seconds: float, xrun: bool) -> None:
        self._called_at["input"] = time.monotonic()
        self.state.input_ms = _averaged(self.state.input_ms, late_seconds)
        self.state.xruns += xrun
        self._ear.take(ulaw)

    def _played(self, late_seconds: float) -> None:
        self._called_at["output"] = time.monotonic()
        self.state.output_ms = _averaged(self.state.output_ms, late_seconds)
        self._on_played()

    def _count_xrun(self) -> None:
        self.state.xruns += 1

    def _lose(self, why: str) -> None:
        if not self._closing and not self.lost.done():
            self.lost.set_result(why)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call `function` in the event loop. The loop may be closed: PortAudio's last callback can come late."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)


@asynccontextmanager
async def open_card(
    backend: Any,
    ear: Ear,
    mouth: Mouth,
    on_played: Callable[[], object],
    *,
    input_device: Device,
    output_device: Device,
) -> AsyncIterator[Card]:
    """Open a card, watch over it, and close it on leaving. `on_played` runs in the event loop for each block played.

    Raises:
        SoundError: it cannot be opened.
    """
    card = Card(backend, ear, mouth, on_played)
    watching = asyncio.create_task(card.watch())
    try:
        card.open(input_device, output_device)
        yield card
    finally:
        watching.cancel()
        card.close()
        await asyncio.gather(watching, return_exceptions=True)


def _refused(kind: str, device: Device, what: str, error: Exception | None) -> SoundError:
    busy = error is not None and _TAKEN in error.args
    remedy = "another program uses it; close that one" if busy else "choose another one"
    words = error.args[0] if error is not None and error.args else error
    return SoundError(f"the {kind} device {device.number} ({device.name}) cannot be {what}: {words}; {remedy}")


def _formats(device: Device, kind: Kind) -> list[tuple[int, int]]:
    """Return the rates and channels to try: plain telephone audio, which sound servers convert, then the card's."""
    rates = dict.fromkeys([SAMPLE_RATE, 48000, device.rate_hz])
    return [(rate, channels) for rate in rates for channels in (1, 2) if channels <= device.channels(kind)]


def _averaged(average_ms: float, new_seconds: float) -> float:
    new_ms = min(max(new_seconds, 0.0), MAX_LATE_SECONDS) * 1000
    return new_ms if not average_ms else average_ms + _SMOOTHING * (new_ms - average_ms)
