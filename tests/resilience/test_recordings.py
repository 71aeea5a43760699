"""Recordings of calls whose process was killed: what was heard up to a second before is there, and it goes on."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from phoneagent.store.recordings import Recorded, Recordings
from tests.patience import HANG_SECONDS
from tests.resilience.callers import Caller, Callers
from tests.resilience.conftest import Worlds
from tests.resilience.test_mid_turn import DURABLE_SECONDS, hear_some, lateness

pytestmark = pytest.mark.anyio
CALLS = 10
PIECE = 400
NEAR = 4000
"""A twentieth of a second, and half a second, in samples."""

LATE_MS = 20
"""A frame is sent when it was spoken."""


def recorded_until_ms(caller: Caller, recorded: Recorded, late_seconds: float) -> float:
    """How much of the first media stream is recorded, on the phone's clock, after checking that it is what was heard.

    The recording begins with the stream. A busy machine delivers late, by `late_seconds` at most, so each piece of the
    sound is looked for near its place, and where the phone ran out of audio the app may not have noticed, or the other
    way round.
    """
    near = NEAR + round(8000 * late_seconds)
    first = caller.line.streams[0]
    end = next(piece.end for piece in recorded.pieces if first.sid in piece.path)
    left, right = (side[:end] for side in recorded.sides())
    spoken = caller.line.caller_audio()
    offset = next(at for at in range(0, 8000, 160) if spoken[at : at + end] == left)
    found, pieces = 0, 0
    for span in caller.line.heard_during(first):
        begin = round(span.start_ms * 8) - offset
        audio = bytes(caller.line.received[span.stream_start : span.stream_end])
        for at in range(max(0, -begin), min(len(audio), end - begin - near) - PIECE, PIECE):
            piece, around = audio[at : at + PIECE], right[max(0, begin + at - near) : begin + at + PIECE + near]
            found, pieces = found + (piece in around), pieces + 1
    assert pieces > 30, caller
    assert found >= 0.9 * pieces or late_seconds > 0.5, (caller, found, pieces)  # then there are more gaps
    return (end + offset) / 8


async def test_a_killed_process_leaves_recordings_up_to_their_last_second(
    world: Worlds, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    folder = tmp_path / "recordings"
    async with world(RECORD_AUDIO=str(folder)) as w:
        first, second = w.cluster.processes
        second.in_rotation = False
        async with Callers(w.cluster, w.model, CALLS) as callers:
            await callers.enter(["telling"] * CALLS)
            enough = asyncio.Event()
            watch = asyncio.create_task(lateness(w, first, enough))
            await asyncio.gather(*(hear_some(caller) for caller in callers.all))
            enough.set()
            late_seconds = await watch
            second.in_rotation = True
            first.kill()
            for caller in callers.all:
                caller.killed_at.append(first.struck_at)
            await first.wait()
            recordings = Recordings(str(folder))
            lost_ms = []
            for caller in callers.all:
                recorded = recordings.find(caller.sid)
                assert recorded is not None
                killed_ms = (first.struck_at - caller.line.streams[0].started_at) * 1000
                lost_ms.append(killed_ms - recorded_until_ms(caller, recorded, late_seconds))
            await asyncio.gather(*(caller.come_back(expect_voice=True) for caller in callers.all))
            await callers.leave()
            for caller in callers.all:
                await caller.line.wait_ended(20)
        async with asyncio.timeout(HANG_SECONDS):
            while any(
                record.recording is None or record.recording.status != "completed" for record in await w.store.calls()
            ):
                await asyncio.sleep(0.05)
        for caller in callers.all:
            recorded = recordings.find(caller.sid)
            assert recorded is not None
            assert len(recorded.pieces) == 2
            lasted_ms = caller.line.streams[-1].end_ms
            assert lasted_ms is not None
            late_ms = 500 + 1000 * (late_seconds + w.cluster.stalled_seconds)
            assert math.isclose(recorded.duration_ms, lasted_ms, abs_tol=late_ms), caller
    worst = max(lost_ms)
    measured(
        f"SIGKILL while {CALLS} calls are recorded: lost {min(lost_ms):.0f} to {worst:.0f} ms; an answer and a write "
        f"took {1000 * late_seconds:.0f} ms at most"
    )
    assert worst <= 1000 * (DURABLE_SECONDS + 2 * late_seconds) + LATE_MS
