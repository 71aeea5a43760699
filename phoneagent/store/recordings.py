"""The recordings of calls: where their parts are, and how they are joined, read, and deleted.

A recording is a folder `DATE/CALL_SID`. Each media stream of the call adds parts, which no other stream touches, so
that a call can go on in another process. A part's name has the moment when its stream's recording began, in
milliseconds since 1970, the stream, and the sample at which the part begins. It is interleaved µ-law of both sides, the
caller first. Between two streams there is silence.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any, Protocol

from pydantic import SecretStr

from phoneagent.errors import PhoneAgentError
from phoneagent.protocol.audio import BYTES_PER_MS, SAMPLE_RATE, SILENCE, decode_ulaw
from phoneagent.protocol.wav import HEAD_BYTES, MAX_DATA_BYTES, stereo_head
from phoneagent.store.audio_places import Part, Place, place_at, shown_place
from phoneagent.usercode import run_in_thread

log = logging.getLogger("phoneagent.store.recordings")

MAX_GAP_SAMPLES = 7200 * SAMPLE_RATE
"""The most silence between two parts: the clock of a machine may be far off."""

SWEEP_SECONDS = 3600.0
"""How often old recordings are deleted."""

CHUNK_SAMPLES = 8 * SAMPLE_RATE
"""How much is read at a time."""

_FRAME = 2  # a sample of each side, one byte each
_WAV_FRAME = 4
_MAX_NAME = 64
_SID = re.compile(rf"[A-Za-z0-9]{{1,{_MAX_NAME}}}")
_PART = re.compile(rf"([0-9]{{1,15}})-({_SID.pattern})-([0-9]{{1,12}})\.ulaw")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class AudioSettings(Protocol):
    """The settings of recordings."""

    @property
    def record_audio(self) -> SecretStr | None: ...
    @property
    def record_audio_days(self) -> int: ...


_REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EROFS: "let this process write there",
    errno.EACCES: "let this process write there",
    errno.EPERM: "let this process write there",
    errno.ENOENT: "the folder, or the recording in it, is not there: make the folder",
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a recording, from the recording's sample `begin` to `end`."""

    path: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording so far: a WAV file of 16-bit PCM at 8 kHz, the caller on the left, the agent on the right."""

    place: Place
    started_at: datetime
    pieces: tuple[Piece, ...]

    @property
    def samples(self) -> int:
        """Its length in samples per side."""
        return min(self.pieces[-1].end if self.pieces else 0, MAX_DATA_BYTES // _WAV_FRAME)

    @property
    def duration_ms(self) -> int:
        """Its length in milliseconds."""
        return self.samples // BYTES_PER_MS

    @property
    def wav_bytes(self) -> int:
        """The size of the WAV file."""
        return HEAD_BYTES + self.samples * _WAV_FRAME

    def wav(self, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the WAV file from byte `begin` to `end`, one piece at a time. It blocks while it reads.

        Raises:
            OSError: the place does not answer, or the recording was deleted.
        """
        end = self.wav_bytes if end is None else min(end, self.wav_bytes)
        if begin < HEAD_BYTES:
            yield stereo_head(self.samples * _WAV_FRAME)[begin:end]
        first = max(begin - HEAD_BYTES, 0)
        last = end - HEAD_BYTES
        while first < last:
            sample = first // _WAV_FRAME
            until = min(-(-last // _WAV_FRAME), sample + CHUNK_SAMPLES)
            pcm = decode_ulaw(self.ulaw(sample, until))
            yield pcm[first - sample * _WAV_FRAME : last - sample * _WAV_FRAME]
            first = until * _WAV_FRAME

    def ulaw(self, begin: int, end: int) -> bytes:
        """Return the samples from `begin` to `end` as interleaved µ-law of both sides.

        Raises:
            OSError: as for `wav`.
        """
        both = bytearray(SILENCE * (_FRAME * (end - begin)))
        for piece in self.pieces:
            first, last = max(begin, piece.begin), min(end, piece.end)
            if first < last:
                offset = _FRAME * (first - piece.begin)
                data = self.place.read(piece.path, offset, offset + _FRAME * (last - first))
                both[_FRAME * (first - begin) : _FRAME * (first - begin) + len(data)] = data
        return bytes(both)

    def sides(self) -> tuple[bytes, bytes]:
        """Return what the caller said and what they heard, as µ-law. All of it is held in memory.

        Raises:
            OSError: as for `wav`.
        """
        both = self.ulaw(0, self.samples)
        return both[::2], both[1::2]


class Track:
    """The recording of one media stream, while it is written. Its methods block."""

    def __init__(self, place: Place, call_sid: str, stream_sid: str, started_at: datetime) -> None:
        began_ms = round(started_at.timestamp() * 1000)
        self._place = place
        self._prefix = f"{_folder(call_sid, started_at)}/{began_ms:013d}-{stream_sid}"
        self._samples = 0
        self._room = 0
        self._part: Part | None = None
        self._path = ""
        self._written: str | None = None  # the latest part that is not empty

    def append(self, data: bytes) -> bool:
        """Write more; after an OSError, none of `data` counts as written.

        Returns whether this may have restored a part of a recording that was deleted in that moment.
        """
        if self._part is None or self._room < len(data):
            self._path = f"{self._prefix}-{self._samples}.ulaw"
            self._part = self._place.begin(self._path, self._written)
            self._room = self._place.part_bytes
        created = self._part.append(data)
        self._written = self._path
        self._room -= len(data)
        self._samples += len(data) // _FRAME
        return created


class Recordings:
    """The recordings at one place, kept for `days` after the day of the call. Methods that read or write block."""

    def __init__(self, where: str, *, days: int = 90) -> None:
        self._where = where
        self.days = days
        self._prepared = False
        self.shown = shown_place(where)
        """The place, without the secret parts of its URL."""
        self.forgotten: Callable[[str], Coroutine[Any, Any, bool]] = _never
        """Tells whether a call was forgotten, so that it must not be recorded again."""
        self.ask_again_at = 0.0
        """When the database, which did not answer, is asked that again: on the clock of the event loop."""

    @classmethod
    def from_settings(cls, settings: AudioSettings) -> Recordings | None:
        """Return the recordings that RECORD_AUDIO and RECORD_AUDIO_DAYS describe; None if nothing is recorded."""
        where = settings.record_audio
        return None if where is None else cls(where.get_secret_value(), days=settings.record_audio_days)

    def __repr__(self) -> str:
        return f"<Recordings {self.shown}>"

    @cached_property
    def place(self) -> Place:
        """The place itself.

        Raises:
            ConfigurationError: a package that the URL needs is not installed.
        """
        return place_at(self._where)

    def begin(self, call_sid: str, stream_sid: str, started_at: datetime) -> Track:
        """Return the track of a media stream whose recording begins at `started_at`.

        Raises:
            OSError: the place does not answer.
            ConfigurationError: a package that the URL needs is not installed.
        """
        self._prepare()
        return Track(self.place, call_sid, _name(stream_sid), started_at.astimezone(UTC))

    def _prepare(self) -> None:
        """Create the place, once: a disk that disappears later is not replaced."""
        if not self._prepared:
            self.place.prepare()
            self._prepared = True

    def folder(self, call_sid: str) -> str:
        """Return the folder of a recording that begins now, without the secret parts of the place's URL."""
        return f"{self.shown}/{_folder(call_sid, datetime.now(UTC))}"

    def find(self, call_sid: str, around: datetime | None = None) -> Recorded | None:
        """Return the recording of a call so far; None if there is none.

        `around` is when the call began, if that is known: otherwise every day is searched.

        Raises:
            OSError: the place does not answer.
        """
        found: list[tuple[int, str, int, str, int]] = []
        for folder in self._folders(call_sid, around):
            for name, size in self.place.list(folder):
                if (match := _PART.fullmatch(name)) and size >= _FRAME:
                    began_ms, stream, first = int(match[1]), match[2], int(match[3])
                    found.append((began_ms, stream, first, f"{folder}/{name}", size // _FRAME))
        if not found:
            return None
        found.sort()
        start_ms, end, pieces = found[0][0], 0, list[Piece]()
        begins: dict[tuple[int, str], int] = {}
        for began_ms, stream, first, path, samples in found:
            if (began_ms, stream) not in begins:
                wanted = (began_ms - start_ms) * BYTES_PER_MS
                begins[began_ms, stream] = min(max(wanted, end), end + MAX_GAP_SAMPLES)
            begin = begins[began_ms, stream] + first
            end = begin + samples
            pieces.append(Piece(path, begin, end))
        return Recorded(self.place, datetime.fromtimestamp(start_ms / 1000, UTC), tuple(pieces))

    def _folders(self, call_sid: str, around: datetime | None) -> list[str]:
        if not _SID.fullmatch(call_sid):
            return []
        if around is None:
            days = [name for name, _ in self.place.list("") if _DATE.fullmatch(name)]
        else:
            day = around.astimezone(UTC).date()
            days = [str(day + timedelta(days=number)) for number in (-1, 0, 1, 2)]
        return [f"{each}/{call_sid}" for each in days]

    def delete(self, call_sid: str, around: datetime | None = None) -> bool:
        """Delete the recording of a call; return whether there was one. If it is being written, it ends there.

        Raises:
            OSError: it was not deleted, or not completely.
        """
        folders = [each for each in self._folders(call_sid, around) if self.place.list(each)]
        for folder in folders:
            self.place.delete(folder)
        return bool(folders)

    def sweep(self, today: date) -> int:
        """Delete recordings that are too old; return the number of days deleted.

        Raises:
            OSError: some were not deleted. A day that cannot be deleted does not keep the others.
        """
        oldest = str(today - timedelta(days=self.days))
        old = [name for name, _ in self.place.list("") if _DATE.fullmatch(name) and name < oldest]
        problems: list[OSError] = []
        for name in old:
            try:
                self.place.delete(name)
            except OSError as error:
                problems.append(error)
        if problems:
            raise problems[0]
        return len(old)

    def refusal(self, error: OSError | PhoneAgentError) -> str:
        """Return why the place refused to write, with the remedy."""
        if isinstance(error, PhoneAgentError):
            return str(error)
        remedy = _REMEDIES.get(error.errno or 0, "check that it works")
        return f"RECORD_AUDIO={self.shown}: {error.strerror or type(error).__name__}: {remedy}"

    async def keep(self) -> None:
        """Create the place if it is missing, and delete old recordings once an hour, until canceled."""
        while True:
            try:
                await run_in_thread(self._prepare)
                if days := await run_in_thread(self.sweep, datetime.now(UTC).date()):
                    log.info("recordings of %d days, older than %d days, were deleted", days, self.days)
            except (OSError, PhoneAgentError) as error:
                log.error("calls may not be recorded for now: %s", self.refusal(error))
            except RuntimeError as error:  # there is no free thread
                log.error("old recordings were not deleted: %s; trying again later", error)
            await asyncio.sleep(SWEEP_SECONDS)


async def _never(call_sid: str) -> bool:
    return False


def _folder(call_sid: str, started_at: datetime) -> str:
    return f"{started_at:%Y-%m-%d}/{_name(call_sid)}"


def _name(sid: str) -> str:
    """Return a SID as a part of a path: Twilio chooses it, and so may other servers."""
    return sid if _SID.fullmatch(sid) else re.sub(r"[^A-Za-z0-9]", "", sid)[:_MAX_NAME] or "x"
