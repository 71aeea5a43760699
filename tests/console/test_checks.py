"""The checks of the setup page: shown as they come, bounded, and with a line to copy for each that failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from phoneagent.console import checks as module
from phoneagent.console.checks import MAX_CHECKS, PAUSE_SECONDS, Checks, remedy_line, without_passwords
from phoneagent.doctor.checks import Check, failed, ok, skipped

pytestmark = pytest.mark.anyio

Run = Callable[[], AsyncGenerator[Check]]


class Doctor:
    """Checks that come when a test says so."""

    def __init__(self) -> None:
        self.runs = 0
        self.closed = 0
        self.gates = [asyncio.Event(), asyncio.Event()]

    async def examine(self) -> AsyncGenerator[Check]:
        self.runs += 1
        try:
            for number, gate in enumerate(self.gates):
                await gate.wait()
                yield ok(f"check {number}", "fine")
        finally:
            self.closed += 1


async def test_they_come_one_by_one() -> None:
    doctor = Doctor()
    checks = Checks(doctor.examine)
    assert not checks.begun
    assert checks.begin() == 0
    first = asyncio.create_task(checks.wait(0))
    all_of_them = asyncio.create_task(checks.wait(None))
    await asyncio.sleep(0)
    assert not first.done()
    doctor.gates[0].set()
    await first
    assert [each["name"] for each in checks.report(full=False)["checks"]] == ["check 0"]
    assert checks.running
    assert not all_of_them.done()
    doctor.gates[1].set()
    await all_of_them
    report = checks.report(full=False)
    assert (len(report["checks"]), report["running"], report["problem"]) == (2, False, None)
    await checks.wait(7)  # no more are to come
    assert doctor.closed == 1


async def test_viewers_share_a_run_and_the_next_one_has_to_wait() -> None:
    now = 100.0
    doctor = Doctor()
    checks = Checks(doctor.examine, clock=lambda: now)
    for gate in doctor.gates:
        gate.set()
    assert checks.begin() == checks.begin() == 0
    await checks.wait(None)
    assert checks.begin() == PAUSE_SECONDS
    assert doctor.runs == 1
    now += PAUSE_SECONDS
    assert checks.begin() == 0
    await checks.wait(None)
    assert doctor.runs == 2


async def test_a_run_has_a_limit_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUN_SECONDS", 0.02)
    doctor = Doctor()
    doctor.gates[0].set()
    checks = Checks(doctor.examine)
    checks.begin()
    await checks.wait(None)
    report = checks.report(full=False)
    assert len(report["checks"]) == 1
    assert "longer than 0.02 s" in report["problem"]
    assert doctor.closed == 1


async def test_a_check_that_breaks_is_said_and_another_run_may_go_well(caplog: pytest.LogCaptureFixture) -> None:
    broken = True

    async def examine() -> AsyncGenerator[Check]:
        yield ok("settings", "complete")
        if broken:
            raise RuntimeError("the secret")

    now = 0.0
    checks = Checks(examine, clock=lambda: now)
    checks.begin()
    await checks.wait(None)
    assert checks.report(full=False)["problem"] == "the checks failed (RuntimeError): see the log"
    broken, now = False, 60.0
    checks.begin()
    await checks.wait(None)
    assert checks.report(full=False)["problem"] is None


async def test_a_server_that_stops_ends_them() -> None:
    doctor = Doctor()
    checks = Checks(doctor.examine)
    checks.end()
    checks.begin()
    waiting = asyncio.create_task(checks.wait(None))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    checks.end()
    await waiting
    assert doctor.closed == 1
    assert not checks.running


async def test_there_are_not_too_many() -> None:
    async def examine() -> AsyncGenerator[Check]:
        while True:
            yield ok("again", "and again")

    checks = Checks(examine)
    checks.begin()
    await checks.wait(None)
    assert len(checks.report(full=False)["checks"]) == MAX_CHECKS


async def test_neither_numbers_nor_media_tokens_are_shown() -> None:
    async def examine() -> AsyncGenerator[Check]:
        yield failed("number", "+15550100002 is gone, see https://x.example/twilio/media/secret-token")
        yield failed(
            "number", "it points to https://me:secret-word@x.example/?key=secret-key: set it to https://y.example"
        )

    checks = Checks(examine)
    checks.begin()
    await checks.wait(None)
    shown = str(checks.report(full=False))
    assert "+15550100002" not in shown
    assert "+1••••••02" in shown
    assert "+15550100002" in str(checks.report(full=True))
    assert "secret" not in shown + str(checks.report(full=True))
    assert "it points to https://…@x.example/?…: set it to https://y.example" in shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("api.openai.com refused the key (401): check OPENAI_API_KEY", "OPENAI_API_KEY="),
        ("it takes only the GA interface: set REALTIME_DIALECT=ga", "REALTIME_DIALECT=ga"),
        ("it has old tables: run `phoneagent migrate`", "phoneagent migrate"),
        ('no webhook: set "A call comes in" to https://x.example/twilio/voice', "https://x.example/twilio/voice"),
        ("this machine is 90 s behind Twilio: synchronize it with a time server", None),
    ],
)
def test_what_to_copy(text: str, line: str | None) -> None:
    assert remedy_line(text) == line


async def test_only_what_failed_has_something_to_copy() -> None:
    async def examine() -> AsyncGenerator[Check]:
        yield skipped("number", "TWILIO_PHONE_NUMBER is not set")
        yield ok("model", "see https://x.example")
        yield failed("number", "TWILIO_PHONE_NUMBER is wrong")

    checks = Checks(examine)
    checks.begin()
    await checks.wait(None)
    copied = [each["copy"] for each in checks.report(full=False)["checks"]]
    assert copied == [None, None, "TWILIO_PHONE_NUMBER="]


@pytest.mark.parametrize("url", ["https://h/v?key=abc:SECRET", "https://h/v?a=1,SECRET", "https://h/v?SECRET."])
def test_nothing_of_a_query_is_shown(url: str) -> None:
    assert without_passwords(f"it points to {url}: set it").startswith("it points to https://h/v?…")
    assert "SECRET" not in without_passwords(f"it points to {url}: set it")
