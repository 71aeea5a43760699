"""The agent's words in `phoneagent sim call`: what the caller heard, in writing, if an ear is installed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from phoneagent.protocol.audio import BYTES_PER_MS
from phoneagent.sim.recogniser import MoonshineEar
from phoneagent.sim.speech import Ear, default_ear
from phoneagent.sim.twilio.phone import Line

NO_EAR = "What the agent says is not written out: pip install 'phoneagent[demo]'."

PAUSE_MS = 700
"""The silence that ends one of the agent's lines."""

POLL_SECONDS = 0.05


async def ready_ear() -> Ear | None:
    """Return the installed ear, ready to hear; None without one."""
    ear = default_ear()
    if isinstance(ear, MoonshineEar):
        await ear.warm_up()
    return ear


@asynccontextmanager
async def overheard(line: Line, ear: Ear | None, tell: Callable[[str], object]) -> AsyncIterator[None]:
    """Pass the agent's words to `tell` while the context lasts. Leaving it waits for the end of the call."""
    if ear is None:
        yield
        return
    listening = asyncio.create_task(_listen(line, ear, tell))
    try:
        yield
        await listening
    finally:
        listening.cancel()


async def _listen(line: Line, ear: Ear, tell: Callable[[str], object]) -> None:
    told_ms = 0.0
    while True:
        over = line.ended_by is not None
        spans = [span for span in line.heard if span.end_ms > told_ms]
        if spans and (over or (not line.playing and line.duration_ms - spans[-1].end_ms >= PAUSE_MS)):
            start_ms, told_ms = spans[0].start_ms, spans[-1].end_ms
            audio = line.heard_audio()[int(start_ms * BYTES_PER_MS) : int(told_ms * BYTES_PER_MS)]
            if words := await ear.hear(audio):
                tell(f'"{words}"')
        elif over:
            return
        else:
            await asyncio.sleep(POLL_SECONDS)
