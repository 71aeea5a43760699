"""The recordings of calls, as the simulated REST API starts, pauses and stops them."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from phoneagent.sim.twilio import rest_recordings
from phoneagent.sim.twilio.rest_forms import Refused, unknown_fields
from phoneagent.sim.twilio.rest_recordings import CURRENT, MAX_RECORDINGS, Recordings

CALL = {"sid": "CA1", "account_sid": "AC1", "status": "in-progress"}
CALLBACK = {"RecordingStatusCallback": "https://agent.example/recorded"}


class Account:
    """The recordings of an account, and the callbacks delivered."""

    def __init__(self) -> None:
        self.recordings = Recordings(lambda: "http://api.example/AC1")
        self.delivered: list[tuple[str, Mapping[str, str], str]] = []

    def start(self, **params: str) -> str:
        def notify(url: str, fields: Mapping[str, str], method: str) -> None:
            self.delivered.append((url, fields, method))

        return str(self.recordings.start(CALL, params, notify)["sid"])

    def refusal(self, *arguments: str, **params: str) -> tuple[int, int]:
        with pytest.raises(Refused) as refused:
            self.recordings.update("CA1", *arguments, params)
        return refused.value.status, refused.value.code


@pytest.fixture
def account() -> Account:
    return Account()


def test_a_recording_is_paused_resumed_and_stopped(account: Account):
    sid = account.start(RecordingChannels="dual", **CALLBACK)
    assert account.recordings.of("CA1")[0]["channels"] == 2
    for status in ("paused", "in-progress"):
        assert account.recordings.update("CA1", CURRENT, {"Status": status})["status"] == status
    assert account.recordings.update("CA1", sid, {"Status": "stopped"})["status"] == "stopped"
    assert account.recordings.get("CA1", sid)["status"] == "completed"
    ((url, fields, method),) = account.delivered
    assert (url, method) == ("https://agent.example/recorded", "POST")
    assert (fields["RecordingStatus"], fields["RecordingDuration"], fields["RecordingChannels"]) == (
        "completed",
        "0",
        "2",
    )
    assert fields["RecordingUrl"] == f"http://api.example/AC1/Recordings/{sid}"
    assert account.refusal(CURRENT, Status="stopped") == (404, 20404)
    assert account.refusal(sid, Status="paused") == (400, 21220)


@pytest.mark.parametrize(
    ("behavior", "seconds"), [({}, "9"), ({"PauseBehavior": "silence"}, "9"), ({"PauseBehavior": "skip"}, "4")]
)
def test_a_pause_records_silence_unless_it_is_skipped(
    account: Account, monkeypatch: pytest.MonkeyPatch, behavior: dict[str, str], seconds: str
):
    now = [0.0]
    monkeypatch.setattr(rest_recordings, "time", SimpleNamespace(monotonic=lambda: now[0]))
    sid = account.start()
    for at, change in ((3.0, {"Status": "paused", **behavior}), (8.0, {"Status": "in-progress"})):
        now[0] = at
        account.recordings.update("CA1", sid, change)
    now[0] = 9.0
    account.recordings.end_call("CA1")
    assert account.recordings.get("CA1", sid)["duration"] == seconds


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, 1),
        ({"DateCreated": "2026-01-31", "PageSize": "50"}, 1),
        ({"DateCreated": "2026-02-01"}, 0),
        ({"DateCreated<": "2026-01-31"}, 1),
        ({"DateCreated<": "2026-01-30"}, 0),
        ({"DateCreated>": "2026-01-31T10:00:00Z"}, 1),
        ({"DateCreated>": "2026-01-31T13:00:00Z"}, 0),
    ],
)
def test_recordings_of_a_date(account: Account, filters: dict[str, str], found: int):
    recording = account.recordings.get("CA1", account.start())
    recording["date_created"] = "Sat, 31 Jan 2026 12:00:00 +0000"
    assert unknown_fields("recordings", filters) == []
    assert len(account.recordings.of("CA1", filters)) == found
    with pytest.raises(Refused):
        account.recordings.of("CA1", {"DateCreated": "today"})


def test_the_start_is_told_if_it_is_asked_for(account: Account):
    account.start(RecordingStatusCallbackEvent="in-progress completed", RecordingStatusCallbackMethod="GET", **CALLBACK)
    account.start()
    account.recordings.end_call("CA1")
    account.recordings.end_call("CA2")
    assert [(each[1]["RecordingStatus"], each[2]) for each in account.delivered] == [
        ("in-progress", "GET"),
        ("completed", "GET"),
    ]
    assert "RecordingDuration" not in account.delivered[0][1]
    assert [each["status"] for each in account.recordings.of("CA1")] == ["completed", "completed"]


def test_a_recording_is_deleted(account: Account):
    account.recordings.delete("CA1", account.start())
    assert account.recordings.of("CA1") == []
    with pytest.raises(Refused):
        account.recordings.get("CA1", CURRENT)


def test_what_is_refused(account: Account):
    sid = account.start()
    assert account.refusal(sid) == (400, 20001)
    assert account.refusal(sid, Status="completed") == (400, 20001)
    assert account.refusal(sid, Status="paused", PauseBehavior="beep") == (400, 20001)
    for params in (
        {"RecordingChannels": "three"},
        {"RecordingStatusCallback": "recorded"},
        {"RecordingStatusCallback": "https://a.example", "RecordingStatusCallbackMethod": "PUT"},
    ):
        with pytest.raises(Refused):
            account.start(**params)
    with pytest.raises(Refused):
        account.recordings.start({**CALL, "status": "completed"}, {}, lambda *callback: None)


def test_recordings_of_a_call_are_bounded(account: Account):
    for _ in range(MAX_RECORDINGS):
        account.start()
    with pytest.raises(Refused):
        account.start()
