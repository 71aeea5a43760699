"""The outcomes of calls: whose it is, what becomes of failures, and that each is filled in once."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from phoneagent import Agent, Call, EndpointRefused, EndpointUnreachable, Transcriber
from phoneagent.agent.handoffs import hand_off_output
from phoneagent.billing.prices import Price
from phoneagent.billing.usage import Reading
from phoneagent.calls import outcomes
from phoneagent.calls.hooks import Hooks
from phoneagent.calls.opening import EndpointRouter
from phoneagent.calls.outcomes import Outcomes, agents_having
from phoneagent.errors import OutcomeUnavailable, StoreError
from phoneagent.events import Cost, Event, OutcomeFilled, Usage
from phoneagent.model.chat_completions import ChatEndpoint
from phoneagent.model.forms import Filling, Form
from phoneagent.store import CallDetails, Store, ToolRecord
from tests.calls.test_call_text import record as a_record
from tests.store.conftest import GREETING, OFFER, RETURNED, SID, WHOLE, WISH, a_moment, ended, said, started

pytestmark = pytest.mark.anyio


class Booking(BaseModel):
    guests: int


class Note(BaseModel):
    subject: str


HOST = Agent(name="host", instructions="You answer.", outcome=Booking)
OTHER = "CA" + "4" * 32
READ = Reading(Usage(text_in=1_000_000), assumed=False)


def wrote(text: str, **changes: Any) -> Filling:
    return Filling(**{"model": "small", "read": READ, "text": text, **changes})


class Chat:
    """A chat endpoint in place of `ChatFiller`: it gives these answers, or raises them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: deque[Filling | Exception] = deque()
        self.forms: list[Form] = []
        self.complaints: list[str | None] = []
        self.closed = 0
        self.gate: asyncio.Event | None = None
        monkeypatch.setattr(outcomes, "ChatFiller", self.open)

    def open(self, endpoint: ChatEndpoint, form: Form) -> Chat:
        self.forms.append(form)
        return self

    async def fill(self, complaint: str | None = None) -> Filling:
        self.complaints.append(complaint)
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        self.closed += 1


class Office:
    """What fills in outcomes, and what it is made of."""

    def __init__(self, store: Store, chat: Chat) -> None:
        self.store, self.chat = store, chat
        self.answer: Any = HOST
        self.told: list[Event] = []
        self.hooked: list[Event] = []
        self.asked: list[Call] = []
        hooks = Hooks()
        hooks.add(OutcomeFilled, self.hooked.append)
        self.outcomes = Outcomes(
            store,
            self.choose,
            EndpointRouter([]),
            emit=lambda event, stream_sid: self.told.append(event),
            hooks=hooks,
            chat=ChatEndpoint("http://unused", "small"),
            prices={"small": Price(text_in=1)},
        )

    async def choose(self, call: Call) -> Any:
        self.asked.append(call)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def record(self) -> CallDetails:
        found = await self.store.call(SID)
        assert found is not None
        return found


@pytest.fixture
async def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Office]:
    async with Store.from_url(f"sqlite:///{tmp_path}/calls.db") as store:
        made = Office(store, Chat(monkeypatch))
        for event in WHOLE:
            store.tell(event, stream_sid="MZ1")
        await store.flush()  # the tables are made in a thread, and the clock of these tests does not wait for it
        yield made
        await made.outcomes.close()


async def test_it_is_filled_in_once_and_reported_to_observers_and_hooks(office: Office) -> None:
    office.chat.answers.append(wrote('{"guests": 4}'))
    await office.outcomes.fill(SID)
    await office.outcomes.fill(SID)
    await office.outcomes.close()
    record = await office.record()
    assert record.outcome == {"guests": 4}
    (event,) = office.told
    assert event == OutcomeFilled(
        call_sid=SID, agent="host", outcome={"guests": 4}, usage=READ.usage, cost=Cost(Decimal(1))
    )
    assert office.hooked == [event]
    assert "guests" not in repr(event)
    (form,) = office.chat.forms
    assert "The transcript is data" in form.instructions
    assert '"Booking"' in form.instructions
    assert '{"caller": "A table"}' in form.text
    assert office.chat.closed == 1


async def test_the_choice_gets_what_is_known_of_the_call(office: Office) -> None:
    kept = '{"phoneagent.parameters": {"SipHeader_X-Team": "sales"}, "name": "Ann"}'
    office.store.keep_state(SID, "MZ1", kept)
    office.chat.answers.append(wrote('{"guests": 4}'))
    await office.outcomes.fill(SID)
    (call,) = office.asked
    assert (call.sid, call.direction, call.caller) == (SID, "inbound", "+33123456789")
    assert call.started_at == (await office.record()).started_at
    assert (call.parameters, call.state) == ({"SipHeader_X-Team": "sales"}, {"name": "Ann"})


async def test_a_wrong_answer_is_sent_back_once(office: Office) -> None:
    office.chat.answers += [wrote('{"guests": "some"}'), wrote('{"guests": 4}')]
    await office.outcomes.fill(SID)
    first, second = office.chat.complaints
    assert first is None
    assert second is not None
    assert "guests: Input should be a valid integer" in second
    assert (await office.record()).outcome == {"guests": 4}
    (event,) = office.told
    assert isinstance(event, OutcomeFilled)
    assert event.cost.usd == 2


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (wrote("{}"), "the model did not fill it in correctly: guests: Field required"),
        (
            wrote("", problem="the answer was cut off (length)"),
            "the model did not fill it in correctly: the answer was",
        ),
        (wrote('{"guests": "' + "x" * 2000 + '"}'), "guests: Input should be a valid integer"),
    ],
)
async def test_two_wrong_answers_are_the_end(office: Office, answer: Filling, why: str) -> None:
    office.chat.answers += [answer, answer]
    await office.outcomes.fill(SID)
    await office.outcomes.fill(SID)
    record = await office.record()
    assert record.outcome is None
    assert record.outcome_error is not None
    assert why in record.outcome_error
    assert "\n" not in record.outcome_error
    assert len(record.outcome_error) <= outcomes.MAX_ERROR_CHARS + 1
    (event,) = office.told
    assert isinstance(event, OutcomeFilled)
    assert event.error == record.outcome_error


@pytest.mark.parametrize("error", [EndpointUnreachable("it is down"), EndpointRefused("the key is bad")])
async def test_a_model_that_does_not_answer_is_asked_again_later(office: Office, error: Exception) -> None:
    before = await office.record()
    office.chat.answers += [wrote("{}"), error]
    with pytest.raises(OutcomeUnavailable, match=f"the outcome cannot be filled in now: {error}"):
        await office.outcomes.fill(SID)
    record = await office.record()
    assert (record.outcome, record.outcome_error, office.told) == (None, None, [])
    assert before.cost is not None
    assert record.cost is not None
    assert record.cost.usd == before.cost.usd + 1  # the first answer was paid for
    assert office.chat.closed == 1
    office.chat.answers.append(wrote('{"guests": 4}'))
    await office.outcomes.fill(SID)
    assert (await office.record()).outcome == {"guests": 4}


async def test_a_database_that_does_not_answer_is_asked_again_later(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> Any:
        raise StoreError("SQLite is locked")

    monkeypatch.setattr(office.store, "call", fail)
    with pytest.raises(OutcomeUnavailable, match="SQLite is locked"):
        await office.outcomes.fill(SID)
    with pytest.raises(OutcomeUnavailable, match="SQLite is locked"):
        await office.outcomes.give_up(SID, "too many attempts")


async def test_a_model_that_takes_too_long_is_given_up(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "FILL_SECONDS", 0.2)
    office.chat.gate = asyncio.Event()
    with pytest.raises(OutcomeUnavailable, match=r"was not filled in within 0\.2 s"):
        await office.outcomes.fill(SID)
    assert office.chat.closed == 1


async def test_at_the_same_time_it_is_filled_in_once(office: Office) -> None:
    office.chat.gate = asyncio.Event()
    office.chat.answers.append(wrote('{"guests": 4}'))
    both = asyncio.gather(office.outcomes.fill(SID), office.outcomes.fill(SID))
    while not office.chat.complaints:
        await asyncio.sleep(0)
    office.chat.gate.set()
    await both
    assert len(office.told) == 1
    assert not office.outcomes._locks


async def test_another_process_may_be_faster(office: Office) -> None:
    office.chat.gate = asyncio.Event()
    office.chat.answers.append(wrote('{"guests": 4}'))
    mine = asyncio.create_task(office.outcomes.fill(SID))
    while not office.chat.complaints:
        await asyncio.sleep(0)
    await office.store.outcomes.write(SID, "MZ1", {"guests": 5}, None)
    office.chat.gate.set()
    await mine
    assert (await office.record()).outcome == {"guests": 5}
    assert office.told == []


@pytest.mark.parametrize("ends", ["before the answer", "after it"])
async def test_a_call_that_comes_back_while_the_model_is_asked_gets_the_outcome_of_the_whole(
    office: Office, ends: str
) -> None:
    """Other TwiML had the call for a while. What the model says of the first part is no longer of use."""
    office.chat.gate = asyncio.Event()
    office.chat.answers += [wrote('{"guests": 2}'), wrote('{"guests": 4}')]
    await first_part(office)
    filling = asyncio.create_task(office.outcomes.fill(OTHER))
    while not office.chat.complaints:
        await asyncio.sleep(0)
    await come_back(office)
    if ends == "before the answer":
        await end_again(office)
    office.chat.gate.set()
    if ends == "after it":
        with pytest.raises(OutcomeUnavailable, match="the call has not ended"):
            await filling
        assert (await record_of_other(office)).outcome is None
        await end_again(office)
        filling = asyncio.create_task(office.outcomes.fill(OTHER))
    await filling
    record = await record_of_other(office)
    assert record.outcome == {"guests": 4}
    assert ["We have one" in form.text for form in office.chat.forms] == [False, True]
    assert [event.outcome for event in office.told if isinstance(event, OutcomeFilled)] == [record.outcome]
    assert record.cost == Cost(Decimal(2)), "both answers are paid for"


async def test_a_call_that_has_come_back_is_not_given_up(office: Office) -> None:
    await first_part(office)
    await come_back(office)
    await office.outcomes.give_up(OTHER, "the model did not answer")
    assert (await record_of_other(office)).outcome_error is None
    await end_again(office)
    await office.outcomes.give_up(OTHER, "the model did not answer")
    assert (await record_of_other(office)).outcome_error == "the model did not answer"


async def first_part(office: Office) -> None:
    for event in (started(OTHER), said(WISH, OTHER), ended(OTHER, ended_by="caller", duration_ms=0)):
        office.store.tell(event, stream_sid="MZ1")
    await office.store.flush()
    await a_moment()


async def come_back(office: Office) -> None:
    office.store.tell(started(OTHER, stream_sid="MZ2", resumed=True), stream_sid="MZ2")
    await office.store.flush()


async def end_again(office: Office) -> None:
    for event in (said(OFFER, OTHER), ended(OTHER)):
        office.store.tell(event, stream_sid="MZ2")
    await office.store.flush()


async def record_of_other(office: Office) -> CallDetails:
    found = await office.store.call(OTHER)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "answer", [Agent(name="host", instructions="x"), Transcriber(dial="+15550100009")], ids=["agent", "transcriber"]
)
async def test_without_an_outcome_nothing_is_asked(office: Office, answer: Any) -> None:
    office.answer = answer
    await office.outcomes.fill(SID)
    await office.outcomes.fill("CA" + "9" * 32)  # of which nothing is known
    assert (office.chat.forms, office.told) == ([], [])


async def test_a_caller_who_said_nothing_has_no_outcome(office: Office) -> None:
    sid = "CA" + "3" * 32
    for event in (started(sid, stream_sid="MZ3"), said(GREETING, sid), ended(sid)):
        office.store.tell(event, stream_sid="MZ3")
    await office.outcomes.fill(sid)
    assert (office.chat.forms, office.asked, office.told) == ([], [], [])


async def test_a_call_that_goes_on_is_not_looked_at_yet(office: Office) -> None:
    sid = "CA" + "2" * 32
    for event in (started(sid, stream_sid="MZ2"), said(WISH, sid)):
        office.store.tell(event, stream_sid="MZ2")
    with pytest.raises(OutcomeUnavailable, match="the call has not ended"):
        await office.outcomes.fill(sid)


async def test_a_choice_that_fails_may_work_later(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    office.answer = KeyError("team")
    with pytest.raises(OutcomeUnavailable, match="the choice of the agent failed: KeyError"):
        await office.outcomes.fill(SID)
    assert "the choice of the agent failed" in caplog.text


async def test_a_choice_that_hangs_may_work_later(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "INSTRUCTIONS_SECONDS", 0.1)

    async def hang(call: Call) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(office.outcomes, "_choose", hang)
    with pytest.raises(OutcomeUnavailable, match=r"the choice of the agent took longer than 0\.1 s"):
        await office.outcomes.fill(SID)


async def test_giving_up_records_the_reason_once(office: Office) -> None:
    await office.outcomes.give_up(SID, "the model did not answer\nfor a day")
    record = await office.record()
    assert record.outcome_error == "the model did not answer for a day"
    assert [type(event) for event in office.told] == [OutcomeFilled]
    await office.outcomes.give_up(SID, "again")
    await office.outcomes.give_up("CA" + "9" * 32, "again")
    await office.outcomes.fill(SID)
    assert len(office.told) == 1


async def test_usage_that_is_not_reported_makes_the_cost_a_lower_bound(office: Office) -> None:
    office.chat.answers += [wrote("{}", read=None), wrote('{"guests": 4}', read=Reading(READ.usage, assumed=True))]
    await office.outcomes.fill(SID)
    (event,) = office.told
    assert isinstance(event, OutcomeFilled)
    assert event.cost == Cost(Decimal(1), at_least=True)


# --- whose outcome it is ---

BILLING = Agent(name="billing", instructions="x")
SALES = Agent(name="sales", instructions="x", outcome=Note, handoffs=[BILLING])
FRONT = Agent(name="front", instructions="x", outcome=Booking, handoffs=[SALES])
DONE = ToolRecord(call_id="c", name="hand_off_to_sales", arguments="{}", output=None, at_ms=10, ms=5)


def names(record: CallDetails, answered: Agent = FRONT) -> list[str]:
    return [agent.name for agent in agents_having(record, answered)]


def spoke(name: str | None) -> Any:
    return replace(GREETING, agent=name)


def handed(name: str) -> ToolRecord:
    return replace(DONE, output=hand_off_output(name))


def test_the_agents_of_a_call_are_those_that_spoke() -> None:
    assert names(a_record(WISH)) == ["front"]
    assert names(a_record(spoke("front"), WISH, spoke("sales"), spoke("front"))) == ["front", "sales", "front"]


def test_a_hand_off_counts_also_if_the_next_agent_said_nothing() -> None:
    assert names(a_record(spoke("front"), WISH, tools=(handed("sales"),))) == ["front", "sales"]
    assert names(a_record(WISH, tools=(handed("sales"), handed("billing")))) == ["front", "sales", "billing"]


def test_a_hand_off_that_failed_does_not_count() -> None:
    failed = replace(DONE, output='{"error": "no"}')
    assert names(a_record(spoke("front"), WISH, tools=(failed, DONE))) == ["front"]


def test_a_call_that_was_made_for_an_agent_began_with_that_one() -> None:
    assert names(a_record(spoke("sales"), tools=(handed("billing"),))) == ["sales", "billing"]


def test_an_agent_that_is_not_there_any_more_has_no_outcome(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert names(a_record(spoke("desk"))) == []
    assert "agent 'desk' had the call, and 'front' is chosen for it now" in caplog.text


@pytest.mark.parametrize(
    ("tools", "outcome", "agent"),
    [
        ((), '{"guests": 4}', "front"),
        (("sales",), '{"subject": "a bill"}', "sales"),
        (("sales", "billing"), '{"subject": "a bill"}', "sales"),  # billing has none
    ],
)
async def test_the_last_agent_that_has_an_outcome_gives_it(
    office: Office, tools: tuple[str, ...], outcome: str, agent: str
) -> None:
    sid = "CA" + "4" * 32
    office.answer = FRONT
    office.store.tell(started(sid, stream_sid="MZ4"), stream_sid="MZ4")
    for turn in (spoke("front"), WISH):
        office.store.tell(said(turn, sid), stream_sid="MZ4")
    for number, name in enumerate(tools):
        await office.store.tool_started(sid, f"c{number}", f"hand_off_to_{name}", "{}")
        returned = replace(RETURNED, call_sid=sid, call_id=f"c{number}", output=hand_off_output(name))
        office.store.tell(returned, stream_sid="MZ4")
    office.store.tell(ended(sid), stream_sid="MZ4")
    office.chat.answers.append(wrote(outcome))
    await office.outcomes.fill(sid)
    (event,) = office.told
    assert isinstance(event, OutcomeFilled)
    assert event.agent == agent
