"""A sound card for tests, in place of the module `sounddevice`. Its callbacks run when the test says so.

`Hardware` runs them in a thread of its own instead, in real time, as PortAudio does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from phoneagent.protocol.audio import decode_ulaw


class PortAudioError(Exception):
    """As in `sounddevice`: the words, and PortAudio's number."""


class Stream:
    """A raw stream, input or output. `clock` is what PortAudio says of the time."""

    def __init__(self, backend: FakeBackend, **options: Any) -> None:
        if (options["samplerate"], options["channels"]) in backend.refused:
            raise PortAudioError("Error opening stream: Invalid sample rate [PaErrorCode -9997]", -9997)
        if backend.busy:
            raise PortAudioError("Error opening stream: Device unavailable [PaErrorCode -9985]", -9985)
        self.rate_hz, self.channels = options["samplerate"], options["channels"]
        self.block = options["blocksize"]
        self.running = False
        self._backend = backend
        self._callback, self._finished = options["callback"], options["finished_callback"]
        backend.streams.append(self)

    def start(self) -> None:
        if self._backend.streams.index(self) == self._backend.unstartable:
            raise PortAudioError("Error starting stream: Unanticipated host error [PaErrorCode -9999]", -9999)
        self.running = True

    def abort(self) -> None:
        self.running = False

    def close(self) -> None:
        self._finished()

    def unplug(self) -> None:
        """End the stream as a card does that is gone."""
        self.running = False
        self._finished()

    def record(self, pcm: bytes, *, late_seconds: float = 0.0, xrun: bool = False) -> None:
        """Deliver samples of the microphone's."""
        times = SimpleNamespace(currentTime=50.0, inputBufferAdcTime=50.0 - late_seconds)
        self._callback(pcm, len(pcm) // 2 // self.channels, times, xrun)

    def play(self, *, late_seconds: float = 0.0, xrun: bool = False) -> bytes:
        """Ask for a block, and return it."""
        data = bytearray(2 * self.block * self.channels)
        times = SimpleNamespace(currentTime=50.0, outputBufferDacTime=50.0 + late_seconds)
        self._callback(memoryview(data), self.block, times, xrun)
        return bytes(data)


class FakeBackend:
    """A machine with a headset that is microphone and loudspeaker, and a monitor that is a loudspeaker only."""

    PortAudioError = PortAudioError

    def __init__(self) -> None:
        self.default = SimpleNamespace(device=(0, 0))
        self.refused: set[tuple[int, int]] = set()
        self.busy = False
        self.unstartable: int | None = None  # the number of a stream that opens, but does not start
        self.streams: list[Stream] = []
        self.devices = [("Fake headset", 1, 2, 44100.0), ("Fake monitor", 0, 2, 48000.0)]

    def query_devices(self) -> list[dict[str, Any]]:
        keys = ("name", "max_input_channels", "max_output_channels", "default_samplerate")
        return [dict(zip(keys, each, strict=True)) for each in self.devices]

    def RawInputStream(self, **options: Any) -> Stream:
        return Stream(self, **options)

    def RawOutputStream(self, **options: Any) -> Stream:
        return Stream(self, **options)


class Hardware:
    """Runs a card's two streams in real time while the context lasts.

    `say` queues µ-law for the microphone; `played` is what the loudspeaker played, as PCM, and `unplug` ends it.
    """

    def __init__(self, backend: FakeBackend) -> None:
        self.backend = backend
        self.played = bytearray()
        self.unplugged = threading.Event()
        self._spoken = bytearray()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Hardware:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def say(self, ulaw: bytes) -> None:
        self._spoken += decode_ulaw(ulaw)

    def wait(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until
            self._over.wait(0.01)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._over.is_set():
            due += 0.01
            self._over.wait(max(due - time.monotonic(), 0))
            streams = [each for each in self.backend.streams if each.running]
            if len(streams) < 2:
                continue
            if self.unplugged.is_set():
                for each in streams:
                    each.unplug()
                return
            microphone, loudspeaker = streams
            size = 2 * microphone.block
            block, self._spoken[:size] = bytes(self._spoken[:size]), b""
            microphone.record(block.ljust(size, b"\0"))
            self.played += loudspeaker.play()
