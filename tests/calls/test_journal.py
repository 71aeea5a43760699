"""How calls go on, by the database and, while that is away, by what this process knows itself."""

from __future__ import annotations

import asyncio
import gc
import logging
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from phoneagent import Call
from phoneagent.bridge.steps import FallBack, HangUp, NextStep, Resume, Transfer
from phoneagent.calls import journal
from phoneagent.calls.journal import CallJournal, Continuation
from phoneagent.errors import RequestRefused, StoreError, TelephonyError
from phoneagent.events import CallEnded, CallStarted, Turn, TurnEnded
from phoneagent.store import Standing, Store
from phoneagent.twilio.rest import LiveCalls
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
SID = "CA" + "1" * 32
GREETING = Turn(
    role="agent",
    item_id="item_1",
    text="Hello!",
    heard_text="Hello!",
    start_ms=20,
    end_ms=520,
    said_ms=500,
    heard_ms=500,
)
HANG_UP = HangUp(stream_sid="MZ1")
FALL_BACK = FallBack(stream_sid="MZ1")
RESUME = Resume(stream_sid="MZ1", pending="answer", broke=False)
BROKEN = Resume(stream_sid="MZ1", pending="answer", broke=True)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, its database answers in time, but where a test takes it away."""
    for name in ("WRITE_SECONDS", "PATIENT_SECONDS", "READ_SECONDS", "KNOWN_READ_SECONDS"):
        monkeypatch.setattr(journal, name, HANG_SECONDS)


class Rest(LiveCalls):
    """Twilio's REST API, as far as it comes to be asked here."""

    def __init__(self, *, works: bool = True) -> None:
        self.done: list[str] = []
        self.twiml: list[str] = []
        self._works = works

    async def complete(self, call_sid: str) -> None:
        await self._do("complete")

    async def redirect(self, call_sid: str, twiml: str) -> None:
        await self._do("redirect")
        self.twiml.append(twiml)

    async def _do(self, what: str) -> None:
        if not self._works:
            raise TelephonyError("Twilio cannot be asked")
        self.done.append(what)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A database with a call in it."""
    async with Store.from_url(f"sqlite:///{tmp_path}/calls.db") as kept:
        begin(kept)
        kept.tell(TurnEnded(call_sid=SID, turn=GREETING))
        await kept.flush()
        yield kept


def begin(kept: Store, stream_sid: str = "MZ1", *, resumed: bool = False) -> None:
    kept.tell(
        CallStarted(
            call_sid=SID, stream_sid=stream_sid, caller=None, called=None, direction="inbound", resumed=resumed
        ),
        stream_sid=stream_sid,
    )


def after(store: Store, rest: Rest | None = None) -> CallJournal:
    return CallJournal(store, rest or Rest(), fallback_number=None)


def take_away(store: Store, monkeypatch: pytest.MonkeyPatch, how: str = "refuses") -> None:
    async def away(*_: Any) -> Any:
        if how == "hangs":
            await asyncio.Event().wait()
        raise StoreError("the database is away")

    monkeypatch.setattr(journal, "WRITE_SECONDS", 0.02)
    monkeypatch.setattr(journal, "PATIENT_SECONDS", 0.02)
    monkeypatch.setattr(journal, "READ_SECONDS", 0.02)
    monkeypatch.setattr(journal, "KNOWN_READ_SECONDS", 0.02)
    monkeypatch.setattr(store._database, "read", away)
    monkeypatch.setattr(store._database, "write", away)


ANSWERS = [
    (HANG_UP, Continuation("hang_up")),
    (FALL_BACK, Continuation("fall_back")),
    (RESUME, Continuation("resume", "MZ1")),
    (BROKEN, Continuation("recover", "MZ1")),
]


@pytest.mark.parametrize(("step", "answer"), ANSWERS)
async def test_what_one_process_has_written_another_one_answers(
    store: Store, step: NextStep, answer: Continuation
) -> None:
    rest = Rest()
    await after(store, rest).next_step(SID, step)
    assert await after(store).answer(SID) == answer
    assert rest.done == []


# --- a step that is given early ---


@pytest.mark.parametrize(("step", "answer"), ANSWERS[:2])
async def test_a_process_that_is_killed_during_the_goodbye_has_ended_the_call(
    store: Store, step: NextStep, answer: Continuation
) -> None:
    rest = Rest()
    await after(store, rest).next_step(SID, step, early=True)
    assert await after(store).answer(SID) == answer
    with pytest.raises(RequestRefused, match="over"):
        await after(store).past(SID)
    assert rest.done == []


@pytest.mark.parametrize(("step", "answer"), ANSWERS[1:])
async def test_what_happens_in_the_end_counts_and_not_what_was_to_come(
    store: Store, step: NextStep, answer: Continuation
) -> None:
    ours = after(store)
    await ours.next_step(SID, HANG_UP, early=True)
    await ours.next_step(SID, step)
    assert await ours.answer(SID) == answer
    assert await after(store).answer(SID) == answer


async def test_an_early_step_that_is_overtaken_changes_nothing_any_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = after(store)
    written, free = store.next_step, asyncio.Event()

    async def slow(call_sid: str, step: NextStep, **options: Any) -> None:
        if step == HANG_UP:
            await free.wait()
        await written(call_sid, step, **options)

    monkeypatch.setattr(store, "next_step", slow)
    early = asyncio.create_task(ours.next_step(SID, HANG_UP, early=True))
    await asyncio.sleep(0)  # it has been given
    await ours.next_step(SID, RESUME)
    free.set()
    await early
    assert await ours.answer(SID) == await after(store).answer(SID) == Continuation("resume", "MZ1")


async def test_the_step_of_the_end_is_not_written_again_and_needs_no_database(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = Rest()
    ours = after(store, rest)
    await ours.next_step(SID, HANG_UP, early=True)
    take_away(store, monkeypatch)
    await ours.next_step(SID, HANG_UP)
    assert rest.done == []


async def test_an_early_step_that_is_not_written_is_left_to_the_end(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rest = Rest()
    ours = after(store, rest)
    with monkeypatch.context() as outage:
        take_away(store, outage)
        await ours.next_step(SID, HANG_UP, early=True)
        assert rest.done == []
        assert caplog.messages == ["the call's next step was not saved: only this process knows it"]
        await ours.next_step(SID, HANG_UP)
    assert rest.done == ["complete"]


async def test_a_step_that_fails_late_is_reported_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "PATIENT_SECONDS", 0.02)
    free, failed = asyncio.Event(), asyncio.Event()

    async def slow(work: Any) -> Any:
        await free.wait()
        failed.set()
        raise StoreError("the database is locked")

    monkeypatch.setattr(store._database, "write", slow)
    await after(store).next_step(SID, RESUME)
    free.set()
    async with asyncio.timeout(HANG_SECONDS):
        await failed.wait()
    await asyncio.sleep(0)
    gc.collect()  # asyncio would log here that no one has retrieved the exception
    assert caplog.messages == ["the call's next step was not saved: only this process knows it"]


async def test_a_hand_over_that_is_written_late_is_planned_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A goodbye that is written late must not be: carrying it out through Twilio's REST API instead meanwhile."""
    monkeypatch.setattr(journal, "WRITE_SECONDS", 0.02)
    monkeypatch.setattr(journal, "PATIENT_SECONDS", 0.02)
    rest, ours, free = Rest(), after(store), asyncio.Event()
    write = store._database.write

    async def slow(work: Any) -> Any:
        await free.wait()
        return await write(work)

    monkeypatch.setattr(store._database, "write", slow)
    await ours.next_step(SID, RESUME)
    await after(store, rest).next_step(SID, replace(HANG_UP, stream_sid="MZ0"))
    assert rest.done == ["complete"]
    free.set()
    async with asyncio.timeout(HANG_SECONDS):
        while await after(store).answer(SID) != Continuation("resume", "MZ1"):
            await asyncio.sleep(0.005)


async def test_a_call_without_a_written_step_has_broken_unless_it_was_ended(store: Store) -> None:
    ours = after(store)
    assert await ours.answer(SID) == Continuation("recover", "MZ1")
    past, record = await ours.past(SID), await store.call(SID)
    assert past is not None
    assert record is not None
    assert (past.turns, past.started_at) == ((GREETING,), record.started_at)
    store.tell(CallEnded(call_sid=SID, ended_by="agent", reason="goodbye", duration_ms=900, transcript=()))
    assert await ours.answer(SID) == Continuation("hang_up")
    with pytest.raises(RequestRefused, match="over"):
        await ours.past(SID)


async def test_after_a_crash_the_past_has_what_was_being_said_and_what_was_open(store: Store) -> None:
    cut = replace(GREETING, item_id="item_2", text="At eight or at nine?", heard_text="At eight", interrupted=True)
    store.keep_unfinished(SID, "MZ1", [cut], "answer")
    past = await after(store).past(SID)
    assert past is not None
    assert (past.turns[-1].heard_text, past.pending, past.before_crash) == ("At eight", "unknown", "answer")
    assert "At eight" in str(past.items()[-1])


async def test_a_call_that_has_never_begun_has_no_past(store: Store) -> None:
    assert await after(store).past("CA" + "2" * 32) is None


async def test_calls_that_all_ask_at_once_all_go_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "READ_SECONDS", 60.0)  # however slow this machine is
    ours = after(store)
    await ours.next_step(SID, RESUME)
    theirs = after(store)
    assert set(await asyncio.gather(*(theirs.answer(SID) for _ in range(100)))) == {Continuation("resume", "MZ1")}
    pasts = await asyncio.gather(*(theirs.past(SID) for _ in range(100)))
    assert {past.pending for past in pasts if past is not None} == {"answer"}
    assert None not in pasts


@pytest.mark.parametrize("how", ["refuses", "hangs"])
@pytest.mark.parametrize(("step", "answer"), ANSWERS)
async def test_an_outage_before_twilio_asks_changes_no_answer_of_this_process(
    store: Store, monkeypatch: pytest.MonkeyPatch, how: str, step: NextStep, answer: Continuation
) -> None:
    ours = after(store)
    await ours.next_step(SID, step)
    take_away(store, monkeypatch, how)
    assert await ours.answer(SID) == answer
    if isinstance(step, Resume):
        past = await ours.past(SID)
        assert past is not None
        assert (past.turns, past.greeted) == ((), True)  # it is not greeted anew
    else:
        with pytest.raises(RequestRefused, match="over"):
            await ours.past(SID)
    assert await after(store).answer(SID) == Continuation("apologize")
    with pytest.raises(StoreError, match=r"is away|did not answer within 0\.02 s"):
        await after(store).past(SID)


@pytest.mark.parametrize(
    ("step", "done", "said"),
    [
        (HANG_UP, ["complete"], "carrying it out through Twilio's REST API instead"),
        (FALL_BACK, ["redirect"], "carrying it out through Twilio's REST API instead"),
        (RESUME, [], "only this process knows it"),
    ],
)
async def test_a_step_that_is_not_written_is_done_over_rest_where_that_can_be(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: NextStep,
    done: list[str],
    said: str,
) -> None:
    caplog.set_level(logging.WARNING, "phoneagent.calls.journal")
    take_away(store, monkeypatch)
    rest = Rest()
    await after(store, rest).next_step(SID, step)
    assert rest.done == done
    assert [record.getMessage() for record in caplog.records] == [f"the call's next step was not saved: {said}"]


@pytest.mark.parametrize(
    ("caller", "shown"), [("+15550100001", None), (None, "+15550100003"), ("client:anna", "+15550100003")]
)
async def test_a_forward_over_rest_shows_a_caller_id_that_twilio_takes(
    store: Store, monkeypatch: pytest.MonkeyPatch, caller: str | None, shown: str | None
) -> None:
    calls: dict[str, Call] = {}
    rest = Rest()
    ours = CallJournal(store, rest, fallback_number="+15550100009", calls=calls, own_number="+15550100002")
    calls[SID] = Call(sid=SID, caller=caller, called="+15550100003", direction="inbound", started_at=datetime.now(UTC))
    take_away(store, monkeypatch)
    await ours.next_step(SID, FALL_BACK)
    (dial,) = ET.fromstring(rest.twiml[0])
    assert (dial.tag, dial.text, dial.get("callerId")) == ("Dial", "+15550100009", shown)


async def test_without_a_rest_api_a_goodbye_that_is_not_written_is_known_here(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours = CallJournal(store, None, fallback_number=None)
    take_away(store, monkeypatch)
    await ours.next_step(SID, HANG_UP)
    assert caplog.messages == ["the call's next step was not saved: only this process knows it"]
    assert await ours.answer(SID) == Continuation("hang_up")


async def test_a_goodbye_is_the_end_although_neither_database_nor_rest_took_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = after(store, Rest(works=False))
    with monkeypatch.context() as outage:
        take_away(store, outage)
        with pytest.raises(TelephonyError):
            await ours.next_step(SID, HANG_UP)
        assert await ours.answer(SID) == Continuation("hang_up")
    assert await ours.answer(SID) == Continuation("hang_up")  # the database is back, and has never heard of it
    assert await after(store).answer(SID) == Continuation("recover", "MZ1")


async def test_a_step_that_was_not_written_is_known_with_all_that_was_said(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = after(store)
    with monkeypatch.context() as outage:
        take_away(store, outage)
        await ours.next_step(SID, RESUME)
    assert await ours.answer(SID) == Continuation("resume", "MZ1")
    past = await ours.past(SID)
    assert past is not None
    assert (past.pending, past.turns) == ("answer", (GREETING,))


async def test_a_step_that_only_this_process_knows_is_void_after_a_newer_stream(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = after(store)
    with monkeypatch.context() as outage:
        take_away(store, outage)
        await ours.next_step(SID, RESUME)
    begin(store, "MZ2", resumed=True)
    assert await ours.answer(SID) == Continuation("recover", "MZ2")


async def test_a_newer_socket_of_a_live_call_goes_on_without_the_database(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(store, monkeypatch)
    past = await after(store).past(SID, "answer")
    assert past is not None
    assert past.greeted


async def test_what_a_process_remembers_is_bounded_and_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_KNOWN", 2)
    ours = after(store)
    sids = [f"CA{number:032x}" for number in range(4)]
    for sid in sids:
        await ours.next_step(sid, HANG_UP)
    assert list(ours._steps) == sids[2:]
    await ours.settle(sids[2], "caller", "completed")
    assert list(ours._steps) == sids[3:]
    take_away(store, monkeypatch)
    assert await ours.answer(sids[3]) == Continuation("hang_up")
    monkeypatch.setattr(journal, "KNOWN_SECONDS", 0.0)
    assert await ours.answer(sids[3]) == Continuation("apologize")


@pytest.mark.parametrize("how", ["refuses", "hangs"])
async def test_an_end_that_is_not_recorded_is_an_error_and_recorded_when_it_is_reported_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    ours = after(store)
    with monkeypatch.context() as outage:
        take_away(store, outage, how)
        with pytest.raises(StoreError):
            await ours.settle(SID, "caller", "Twilio reports that it is completed")
    await ours.settle(SID, "caller", "Twilio reports that it is completed")
    record = await store.call(SID)
    assert record is not None
    assert (record.ended_by, record.reason) == ("caller", "Twilio reports that it is completed")


# --- transfers ---

TRANSFER = Transfer(stream_sid="MZ1", to="+12025550107", name="billing")


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another process"])
async def test_a_transfer_is_dialed_until_its_outcome_is_known(store: Store, elsewhere: bool) -> None:
    here = CallJournal(store, None, fallback_number=None)
    await here.next_step(SID, TRANSFER, early=True)
    await here.next_step(SID, TRANSFER)
    asked = CallJournal(store, None, fallback_number=None) if elsewhere else here
    for _ in range(2):  # Twilio may ask twice, and carries out one answer
        assert await asked.answer(SID) == Continuation("transfer", "MZ1", None, TRANSFER)
    assert await asked.transferred(SID, "MZ1", "busy") == Continuation("resume", "MZ1", None, TRANSFER)
    assert await asked.transferred(SID, "MZ1", "busy") == Continuation("resume", "MZ1", None, None)
    past = await asked.past(SID)
    assert past is not None
    assert past.pending == "answer"
    assert past.returned == "The transfer is over: billing is busy."
    assert "+1202" not in repr(past)


async def test_a_transfer_that_was_completed_ends_the_call(store: Store) -> None:
    journal_ = CallJournal(store, None, fallback_number=None)
    await journal_.next_step(SID, TRANSFER)
    answer = await journal_.transferred(SID, "MZ1", "completed")
    assert (answer.kind, answer.transfer) == ("hang_up", TRANSFER)
    details = await store.call(SID)
    assert details is not None
    assert (details.ended_by, details.reason) == ("agent", "transferred to billing")
    with pytest.raises(RequestRefused):
        await journal_.past(SID)
    assert (await journal_.transferred(SID, "MZ1", "completed")).transfer is None


async def test_the_outcome_of_another_process_s_transfer_waits_for_a_slow_database(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await after(store).next_step(SID, TRANSFER)
    standing = store.standing

    async def slow(call_sid: str) -> Standing:
        await asyncio.sleep(0.05)
        return await standing(call_sid)

    monkeypatch.setattr(store, "standing", slow)
    monkeypatch.setattr(journal, "KNOWN_READ_SECONDS", 0.0)
    monkeypatch.setattr(journal, "READ_SECONDS", HANG_SECONDS)
    assert (await after(store).transferred(SID, "MZ1", "completed")).transfer == TRANSFER
    details = await store.call(SID)
    assert details is not None
    assert details.reason == "transferred to billing"


async def test_a_transfer_is_never_carried_out_over_rest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twilio asks for it anyway, and this process knows it: the party must not be dialed twice."""
    rest = Rest()
    journal_ = CallJournal(store, rest, fallback_number=None)

    async def away(*args: object, **options: object) -> None:
        raise StoreError("it is away")

    monkeypatch.setattr(store, "next_step", away)
    await journal_.next_step(SID, TRANSFER)
    assert rest.done == []
    assert (await journal_.answer(SID)).transfer == TRANSFER
    answer = await journal_.transferred(SID, "MZ1", "no-answer")
    assert (answer.kind, answer.transfer) == ("resume", TRANSFER)
    assert (await journal_.answer(SID)).kind == "resume"


async def test_of_a_transfer_that_no_process_knows_the_outcome_decides(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*args: object) -> None:
        raise StoreError("it is away")

    monkeypatch.setattr(store, "standing", away)
    journal_ = CallJournal(store, None, fallback_number=None)
    assert await journal_.transferred(SID, "MZ1", "busy") == Continuation("resume", "MZ1")
    assert await journal_.transferred(SID, "MZ1", "completed") == Continuation("hang_up", "MZ1")


async def test_a_caller_who_was_transferred_is_let_go_without_the_database(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours = after(store)
    await ours.next_step(SID, TRANSFER)
    take_away(store, monkeypatch)
    assert (await ours.transferred(SID, "MZ1", "completed")).kind == "hang_up"
    assert "the end of the call was not recorded: the database is away" in caplog.text
