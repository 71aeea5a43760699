"""The recordings of calls, as Twilio's REST API starts, pauses and stops them. Their audio is not kept."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

from phoneagent.sim.twilio.rest_forms import BAD_VALUE, Refused, check_recording, check_recording_update

CURRENT = "Twilio.CURRENT"
"""The name of the current recording, in place of its sid."""

MAX_RECORDINGS = 100
"""How many recordings one call may have."""

_FILTERS = frozenset({"DateCreated", "DateCreated<", "DateCreated>"})
_NOT_ELIGIBLE = 21220
_RUNNING = frozenset({"in-progress", "paused"})

Notify = Callable[[str, Mapping[str, str], str], object]
"""Delivers a status callback: its URL, its fields and its method."""


@dataclass(slots=True)
class _Recording:
    """One recording: its JSON, its callback, and how much was recorded before the last change."""

    json: dict[str, Any]
    callback: str | None
    method: str
    events: frozenset[str]
    notify: Notify = field(repr=False)
    recorded_seconds: float = 0.0
    resumed_at: float | None = None

    def pause(self) -> None:
        if self.resumed_at is not None:
            self.recorded_seconds += time.monotonic() - self.resumed_at
            self.resumed_at = None


class Recordings:
    """The recordings of one account, by call."""

    def __init__(self, account_url: Callable[[], str]) -> None:
        self._account_url = account_url
        self._by_call: dict[str, list[_Recording]] = {}

    def start(self, call: Mapping[str, Any], params: Mapping[str, str], notify: Notify) -> dict[str, Any]:
        """Start recording a call.

        Raises:
            Refused: the call is not in progress, or a parameter is invalid.
        """
        check_recording(params)
        made = self._by_call.setdefault(call["sid"], [])
        if call["status"] != "in-progress" or len(made) >= MAX_RECORDINGS:
            raise Refused(400, _NOT_ELIGIBLE, "Requested resource is not eligible for recording")
        now = format_datetime(datetime.now(UTC))
        recording = {
            "sid": "RE" + secrets.token_hex(16),
            "account_sid": call["account_sid"],
            "call_sid": call["sid"],
            "status": "in-progress",
            "channels": 2 if params.get("RecordingChannels") == "dual" else 1,
            "track": params.get("RecordingTrack", "both"),
            "source": "StartCallRecordingAPI",
            "start_time": now,
            "date_created": now,
            "date_updated": now,
            "duration": None,
            "error_code": None,
            "api_version": "2010-04-01",
        }
        method = params.get("RecordingStatusCallbackMethod", "POST")
        events = frozenset(params.get("RecordingStatusCallbackEvent", "completed").split())
        made.append(_Recording(recording, params.get("RecordingStatusCallback"), method, events, notify))
        made[-1].resumed_at = time.monotonic()
        self._report(made[-1], "in-progress")
        return recording

    def of(self, call_sid: str, filters: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Return the recordings of a call, in order, that match a form with DateCreated, DateCreated< or DateCreated>.

        Raises:
            Refused: a filter is no date.
        """
        wanted = {name: value for name, value in (filters or {}).items() if name in _FILTERS}
        found = [each.json for each in self._by_call.get(call_sid, [])]
        return [each for each in found if all(_matches(each, name, value) for name, value in wanted.items())]

    def get(self, call_sid: str, sid: str) -> dict[str, Any]:
        """Return one recording.

        Raises:
            Refused: the call has none with that sid, or, if `sid` is `Twilio.CURRENT`, none is in progress.
        """
        return self._find(call_sid, sid).json

    def update(self, call_sid: str, sid: str, params: Mapping[str, str]) -> dict[str, Any]:
        """Pause, resume or stop a recording.

        Raises:
            Refused: there is no such recording, it is over, or the status is invalid.
        """
        recording = self._find(call_sid, sid)
        check_recording_update(params)
        if recording.json["status"] not in _RUNNING:
            raise Refused(400, _NOT_ELIGIBLE, "Recording is already stopped")
        recording.pause()
        if params["Status"] == "stopped":
            self._complete(recording)
            return {**recording.json, "status": "stopped"}
        if params["Status"] == "in-progress" or params.get("PauseBehavior") != "skip":  # a pause records silence
            recording.resumed_at = time.monotonic()
        recording.json["status"] = params["Status"]
        return recording.json

    def delete(self, call_sid: str, sid: str) -> None:
        """Delete a recording.

        Raises:
            Refused: there is no such recording.
        """
        self._by_call[call_sid].remove(self._find(call_sid, sid))

    def end_call(self, call_sid: str) -> None:
        """Complete the recordings of a call that is over."""
        for recording in self._by_call.get(call_sid, []):
            if recording.json["status"] in _RUNNING:
                recording.pause()
                self._complete(recording)

    def _find(self, call_sid: str, sid: str) -> _Recording:
        for recording in self._by_call.get(call_sid, []):
            if recording.json["sid"] == sid or (sid == CURRENT and recording.json["status"] in _RUNNING):
                return recording
        raise Refused(404, 20404)

    def _complete(self, recording: _Recording) -> None:
        recording.json |= {"status": "completed", "duration": str(round(recording.recorded_seconds))}
        self._report(recording, "completed")

    def _report(self, recording: _Recording, event: str) -> None:
        if not recording.callback or event not in recording.events:
            return
        made = recording.json
        fields = {
            "AccountSid": made["account_sid"],
            "CallSid": made["call_sid"],
            "RecordingSid": made["sid"],
            "RecordingUrl": f"{self._account_url()}/Recordings/{made['sid']}",
            "RecordingStatus": event,
            "RecordingChannels": str(made["channels"]),
            "RecordingTrack": made["track"],
            "RecordingSource": made["source"],
            "RecordingStartTime": made["start_time"],
        }
        if event == "completed":
            fields["RecordingDuration"] = made["duration"]
        recording.notify(recording.callback, fields, recording.method)


def _matches(recording: Mapping[str, Any], name: str, value: str) -> bool:
    """Return whether a recording is of a date, or of a moment, that a filter names; both ends are included."""
    try:
        wanted = datetime.fromisoformat(value)
    except ValueError:
        raise Refused(400, BAD_VALUE, f"{name} is no date") from None
    made = parsedate_to_datetime(recording["date_created"])
    wanted = wanted if wanted.tzinfo else wanted.replace(tzinfo=UTC)
    if len(value) == len("2026-01-31"):
        made = made.replace(hour=0, minute=0, second=0)
    return made <= wanted if name.endswith("<") else made >= wanted if name.endswith(">") else made == wanted
