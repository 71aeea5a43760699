"""The next step of a call, noted once and written down, whatever the journal does."""

from __future__ import annotations

import asyncio
import logging

import pytest

from phoneagent.bridge.steps import FallBack, HangUp, NextStep, Resume
from phoneagent.calls import next_step
from phoneagent.calls.next_step import StepWriter
from phoneagent.errors import StoreError
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
HANG_UP, FALL_BACK = HangUp(stream_sid="MZ1"), FallBack(stream_sid="MZ1")
RESUME = Resume(stream_sid="MZ1", pending="answer", broke=False)


class Journal:
    """A journal that notes what it takes, or fails, or never answers."""

    def __init__(self, fails: Exception | None = None, *, hangs: bool = False) -> None:
        self.fails = fails
        self.hangs = hangs
        self.written: list[tuple[str, NextStep, bool]] = []

    async def tool_started(self, call_sid: str, call_id: str, name: str, arguments: str) -> None:
        raise AssertionError("no tool runs here")

    async def next_step(self, call_sid: str, step: NextStep, *, early: bool = False) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails
        self.written.append((call_sid, step, early))


# --- noting it ---


def test_in_the_beginning_no_step_is_known() -> None:
    steps = StepWriter("CA1", Journal())
    assert steps.step is None
    assert not steps.resumes


@pytest.mark.parametrize("step", [HANG_UP, FALL_BACK, RESUME])
def test_the_step_that_was_taken_is_kept_as_it_is(step: NextStep) -> None:
    steps = StepWriter("CA1", Journal())
    steps.take(step)
    assert steps.step == step


def test_after_no_step_the_one_before_stays() -> None:
    steps = StepWriter("CA1", Journal())
    steps.take(RESUME)
    steps.take(None)
    assert steps.step == RESUME


def test_of_two_steps_the_later_one_counts() -> None:
    steps = StepWriter("CA1", Journal())
    steps.take(RESUME)
    steps.take(HANG_UP)
    assert steps.step == HANG_UP


def test_a_call_that_goes_on_after_a_fault_of_ours_says_so() -> None:
    steps = StepWriter("CA1", Journal())
    steps.take(RESUME, broke=True)
    assert steps.step == Resume(stream_sid="MZ1", pending="answer", broke=True)


@pytest.mark.parametrize("step", [HANG_UP, FALL_BACK])
def test_a_call_that_ends_ends_the_same_after_a_fault_of_ours(step: NextStep) -> None:
    steps = StepWriter("CA1", Journal())
    steps.take(step, broke=True)
    assert steps.step == step


@pytest.mark.parametrize(("step", "resumes"), [(HANG_UP, False), (FALL_BACK, False), (RESUME, True)])
def test_whether_the_call_goes_on(step: NextStep, resumes: bool) -> None:
    steps = StepWriter("CA1", Journal())
    steps.take(step)
    assert steps.resumes is resumes


def test_only_with_a_journal_a_call_can_go_on() -> None:
    assert StepWriter("CA1", Journal()).can_resume
    assert not StepWriter("CA1", None).can_resume


# --- writing it down ---


async def test_the_step_is_written_with_its_call() -> None:
    journal = Journal()
    steps = StepWriter("CA1", journal)
    steps.take(HANG_UP)
    await steps.settle()
    assert journal.written == [("CA1", HANG_UP, False)]


async def test_an_early_step_is_written_and_not_taken() -> None:
    journal = Journal()
    steps = StepWriter("CA1", journal)
    await steps.write(HANG_UP, early=True)
    assert journal.written == [("CA1", HANG_UP, True)]
    assert steps.step is None


async def test_where_no_step_is_known_none_is_written() -> None:
    journal = Journal()
    await StepWriter("CA1", journal).settle()
    assert journal.written == []


async def test_without_a_journal_nothing_is_written_and_the_step_is_known_all_the_same() -> None:
    steps = StepWriter("CA1", None)
    steps.take(RESUME)
    await steps.settle()
    assert steps.step == RESUME


@pytest.mark.parametrize(
    ("error", "why", "traceback"),
    [
        (StoreError("the database is away"), "carried out: the database is away", False),
        (LookupError("x"), "carried out", True),
    ],
)
async def test_a_journal_that_fails_is_logged_and_not_raised(
    error: Exception, why: str, traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    steps = StepWriter("CA1", Journal(error))
    steps.take(HANG_UP)
    await steps.settle()
    (record,) = caplog.records
    assert (record.levelno, record.call_sid) == (logging.ERROR, "CA1")  # type: ignore[attr-defined]
    assert record.getMessage().endswith(why)
    assert bool(record.exc_info) is traceback


async def test_a_journal_that_never_answers_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(next_step, "STEP_SECONDS", 0.01)
    steps = StepWriter("CA1", Journal(hangs=True))
    steps.take(HANG_UP)
    async with asyncio.timeout(HANG_SECONDS):
        await steps.settle()
    assert caplog.messages == ["the call's next step could not be saved or carried out: it took longer than 0.01 s"]


async def test_settling_can_be_canceled_while_the_journal_hangs() -> None:
    steps = StepWriter("CA1", Journal(hangs=True))
    steps.take(HANG_UP)
    settling = asyncio.create_task(steps.settle())
    await asyncio.sleep(0)
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling
