"""The recording of a call as a WAV file, whole or in parts: a browser asks for parts to seek in it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from phoneagent.calls.take import in_thread
from phoneagent.console.problems import Problem
from phoneagent.console.streaming import OpenStream
from phoneagent.store import Store
from phoneagent.store.recordings import Recorded, Recordings

FIND_SECONDS = 10.0
"""How long the place of the recordings may take to say whether it has one."""

MAX_SENT_AT_ONCE = 100
"""How many recordings may be sent at once. Each one is read in a thread."""

_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")
_NONE = "there is no recording of such a call: GET /calls/{sid} tells whether it was recorded"


class Audio:
    """The recordings as the control API sends them."""

    def __init__(self, recordings: Recordings | None, store: Store | None) -> None:
        self._recordings = recordings
        self._store = store
        self._open: set[OpenStream] = set()

    async def answer(self, request: Request, call_sid: str) -> Response:
        """Return the recording of a call, or the requested range of it.

        Raises:
            StoreError: the database does not answer.
        """
        if self._recordings is None:
            return Problem(404, "calls are not recorded: set RECORD_AUDIO")
        record = None if self._store is None else await self._store.call(call_sid)
        around: datetime | None = None if record is None else record.started_at
        try:
            async with asyncio.timeout(FIND_SECONDS):
                found = await in_thread(self._recordings.find, call_sid, around)
        except TimeoutError:
            words = f"the recordings cannot be read now: their place did not answer within {FIND_SECONDS:g} s"
            return Problem(503, words, {"Retry-After": "30"})
        except OSError as error:
            return Problem(503, f"the recordings cannot be read now: {error.strerror or error}", {"Retry-After": "5"})
        if found is None:
            return Problem(404, _NONE)
        wanted = byte_range(request.headers.get("range"), found.wav_bytes)
        if wanted is None:
            unsatisfiable = {"Content-Range": f"bytes */{found.wav_bytes}"}
            return Problem(416, f"the recording has {found.wav_bytes} bytes: ask for some of these", unsatisfiable)
        if len(self._open) >= MAX_SENT_AT_ONCE:
            return Problem(503, f"{MAX_SENT_AT_ONCE} recordings are being sent: try again later", {"Retry-After": "10"})
        return self._send(found, *wanted, partial=wanted != (0, found.wav_bytes))

    def _send(self, found: Recorded, begin: int, end: int, *, partial: bool) -> Response:
        headers = {
            "Accept-Ranges": "bytes",
            "Cache-Control": "no-store",
            "Content-Length": str(end - begin),
            "Recording-Started-At": found.started_at.isoformat(timespec="milliseconds"),
            "X-Content-Type-Options": "nosniff",
        }
        if partial:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{found.wav_bytes}"
        status = 206 if partial else 200
        pieces = _read(found.wav(begin, end))
        return OpenStream(pieces, self._open, headers=headers, media_type="audio/wav", status=status)


async def _read(pieces: Iterator[bytes]) -> AsyncGenerator[bytes]:
    while (piece := await in_thread(next, pieces, None)) is not None:
        yield piece


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the bytes that a Range header asks for, from and to; None if there are no such bytes.

    Without a header, or for another kind of range or several ranges, return all bytes: that is allowed, and players ask
    for one range.
    """
    if header is None or not (match := _RANGE.fullmatch(header.strip())) or not (match[1] or match[2]):
        return 0, size
    if not match[1]:
        last = int(match[2])
        return (max(0, size - last), size) if last else None
    begin = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if match[2] and int(match[2]) < begin:
        return 0, size  # a header that makes no sense is ignored
    return (begin, end) if begin < size else None
