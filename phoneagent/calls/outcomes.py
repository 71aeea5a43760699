"""The outcomes of calls: what an agent's `outcome` asks for, filled in by a model from the record of a call.

This needs only the record, not the live call, so any process can do it, even after a crash. A call's outcome is that of
the agent that had the call last; if that one has none, of the last agent before it that has one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakValueDictionary

from phoneagent.agent.agent import Agent, Answer, team_of
from phoneagent.agent.call import Call
from phoneagent.agent.handoffs import INSTRUCTIONS_SECONDS, hand_off_output
from phoneagent.agent.options import Hearing
from phoneagent.agent.outcome import OutcomeForm, OutcomeMismatch, outcome_form
from phoneagent.billing.prices import PRICES, Price, cost_of, price_of
from phoneagent.bridge import prompts
from phoneagent.calls.call_text import is_silent, text_of
from phoneagent.calls.hooks import Hooks
from phoneagent.calls.opening import EndpointRouter
from phoneagent.calls.state import restore
from phoneagent.errors import EndpointError, OutcomeUnavailable, StoreError, shown
from phoneagent.events import Cost, Event, OutcomeFilled, Usage
from phoneagent.model.chat_completions import ChatEndpoint, ChatFiller
from phoneagent.model.forms import Filling, Form, FormFiller, SessionFiller, session_of
from phoneagent.store.outcomes import Spent
from phoneagent.store.records import CallDetails

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from phoneagent.store import Store

log = logging.getLogger("phoneagent.calls.outcomes")

FILL_SECONDS = 120.0
"""How long one attempt may take in all."""

MAX_ANSWERS = 2
"""How often the model is asked: a second time with what was wrong with its first answer."""

MAX_ERROR_CHARS = 500

Choice: TypeAlias = Callable[[Call], Awaitable[Answer]]
"""A function that returns the answerer of a call."""


class OutcomeRefused(Exception):
    """An outcome that no further attempt can fill in; the message is the record's `outcome_error`."""


class Outcomes:
    """Fills in the outcomes of calls.

    `choose` returns the answerer of a call. With `chat`, it asks that endpoint; otherwise the app's Realtime ones.
    """

    def __init__(
        self,
        store: Store,
        choose: Choice,
        router: EndpointRouter,
        *,
        emit: Callable[[Event, str], None],
        hooks: Hooks,
        chat: ChatEndpoint | None = None,
        prices: Mapping[str, Price] = PRICES,
    ) -> None:
        self._store = store
        self._choose = choose
        self._router = router
        self._emit = emit
        self._hooks = hooks
        self._chat = chat
        self._prices = prices
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._telling: set[asyncio.Task[None]] = set()

    async def fill(self, call_sid: str) -> None:
        """Fill in the outcome of a call that is over, and record it, or why it cannot be filled in.

        Nothing is done if that is recorded already, if no agent of the call has an outcome, if the other side said
        nothing, or if the call has no record.

        Raises:
            OutcomeUnavailable: nothing is recorded; another attempt may help.
        """
        lock = self._locks.setdefault(call_sid, asyncio.Lock())
        try:
            async with lock, asyncio.timeout(FILL_SECONDS):
                await self._fill(call_sid)
        except TimeoutError:
            raise OutcomeUnavailable(f"the outcome was not filled in within {FILL_SECONDS:g} s: try again") from None
        except (EndpointError, StoreError) as error:
            raise OutcomeUnavailable(f"the outcome cannot be filled in now: {error}") from error

    async def give_up(self, call_sid: str, reason: str) -> None:
        """Record that no further attempt is made, unless the outcome is recorded already.

        Raises:
            OutcomeUnavailable: the database does not answer.
        """
        try:
            record = await self._store.call(call_sid)
            if record is not None and record.ended_at is not None:  # else it has come back, and ends again
                agent = (record.turns[-1].agent if record.turns else None) or ""
                await self._settle(record, agent, error=reason, spent=())
        except StoreError as error:
            raise OutcomeUnavailable(f"the outcome cannot be recorded now: {error}") from error

    async def close(self) -> None:
        """Wait for the hooks that are still running."""
        await asyncio.gather(*self._telling, return_exceptions=True)

    async def _fill(self, call_sid: str) -> None:
        record = await self._store.call(call_sid)
        if record is None or record.outcome is not None or record.outcome_error is not None:
            return
        if record.ended_at is None:
            raise OutcomeUnavailable("the outcome cannot be filled in now: the call has not ended")
        if is_silent(record):
            return
        call = await self._call_of(record)
        agent = await self._agent_of(record, call)
        if agent is None:
            return
        form = outcome_form(agent.outcome)
        outcome, error = None, None
        spent: list[Spent] = []
        try:
            outcome = await self._ask(agent, call, form, text_of(record), spent)
        except OutcomeRefused as refused:
            error = str(refused)
        except BaseException:
            with suppress(StoreError):
                await self._store.outcomes.charge(call_sid, spent)
            raise
        if not await self._settle(record, agent.name, outcome, error=error, spent=spent):
            # It was recorded elsewhere, or the record was deleted, or the call came back: then this was only its first
            # part, and there is more to do, now or at the call's next end.
            await self._fill(call_sid)

    # --- who had the call ---

    async def _call_of(self, record: CallDetails) -> Call:
        call = Call(
            sid=record.call_sid,
            caller=record.caller,
            called=record.called,
            direction=record.direction,
            started_at=record.started_at,
        )
        restore(call, (await self._store.standing(record.call_sid)).state)
        return call

    async def _agent_of(self, record: CallDetails, call: Call) -> Agent | None:
        """Return the agent whose outcome it is. The user's function that chose the call's agent chooses again."""
        try:
            async with asyncio.timeout(INSTRUCTIONS_SECONDS) as limit:
                answer = await self._choose(call)
        except (EndpointError, StoreError):
            raise
        except Exception as error:
            if limit.expired():
                words = f"the choice of the agent took longer than {INSTRUCTIONS_SECONDS:g} s"
                raise OutcomeUnavailable(words) from None
            log.exception("the choice of the agent failed", extra={"call_sid": call.sid})
            raise OutcomeUnavailable(f"the choice of the agent failed: {type(error).__name__}") from error
        if not isinstance(answer, Agent):
            return None
        having = agents_having(record, answer)
        return next((agent for agent in reversed(having) if agent.outcome is not None), None)

    # --- the model ---

    async def _ask(
        self, agent: Agent, call: Call, outcome: OutcomeForm, text: str, spent: list[Spent]
    ) -> dict[str, Any]:
        """Return the outcome. Its cost is added to `spent`, even if it fails.

        Raises:
            OutcomeRefused: the model cannot fill it in.
            EndpointError: the model cannot be asked.
        """
        form = form_of(outcome, text)
        async with self._filler(agent, call, form) as filler:
            return await filled_in(filler, outcome, lambda filling: spent.append(self._spent(filling)))

    @asynccontextmanager
    async def _filler(self, agent: Agent, call: Call, form: Form) -> AsyncIterator[FormFiller]:
        filler: FormFiller
        if self._chat is not None:
            filler = ChatFiller(self._chat, form)
        else:
            session = session_of(form, agent.session(form.instructions, written=True))
            hearing = Hearing(models=())  # nothing is heard
            model = await self._router.open_first(call, hearing, session, self._router.route())
            filler = SessionFiller(model, form)
        try:
            yield filler
        finally:
            await filler.close()

    def _spent(self, filling: Filling) -> Spent:
        if filling.read is None:
            return Spent(filling.model, Usage(), Cost(at_least=True))
        cost = cost_of(filling.read.usage, price_of(filling.model, self._prices))
        return Spent(filling.model, filling.read.usage, Cost(cost.usd, cost.at_least or filling.read.assumed))

    # --- the result ---

    async def _settle(
        self,
        record: CallDetails,
        agent: str,
        outcome: dict[str, Any] | None = None,
        *,
        error: str | None,
        spent: Sequence[Spent],
    ) -> bool:
        """Record and report the outcome of the call as it is in `record`, or the `error`; return whether it counts."""
        error = None if error is None else shown(error, MAX_ERROR_CHARS)
        if not await self._store.outcomes.write(record.call_sid, record.stream_sid, outcome, error, spent):
            return False
        event = OutcomeFilled(
            call_sid=record.call_sid,
            agent=agent,
            outcome=outcome,
            error=error,
            usage=sum((each.usage for each in spent), Usage()),
            cost=sum((each.cost for each in spent), Cost()),
        )
        self._emit(event, record.stream_sid)
        follower = self._hooks.follow()  # the call's own follower has ended
        follower.tell(event)
        task = asyncio.create_task(follower.close(), name="phoneagent outcome hooks")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        return True


def form_of(outcome: OutcomeForm, text: str) -> Form:
    """Return the form of an outcome, to be filled in from the text of a call."""
    return Form(outcome.name, outcome.schema, prompts.outcome(outcome.name, outcome.description), text)


async def filled_in(
    filler: FormFiller, outcome: OutcomeForm, note: Callable[[Filling], None] = lambda filling: None
) -> dict[str, Any]:
    """Have a model fill in an outcome, and again if the first answer is wrong. `note` gets each answer.

    Raises:
        OutcomeRefused: the model cannot fill it in.
        EndpointError: the model does not answer.
    """
    problem: str | None = None
    for _ in range(MAX_ANSWERS):
        filling = await filler.fill(None if problem is None else prompts.outcome_again(problem))
        note(filling)
        problem = filling.problem
        if problem is None:
            try:
                return outcome.read(filling.text)
            except OutcomeMismatch as mismatch:
                problem = shown(mismatch, MAX_ERROR_CHARS)
    raise OutcomeRefused(f"the model did not fill it in correctly: {problem}")


def agents_having(record: CallDetails, answered: Agent) -> list[Agent]:
    """Return the agents that had a call, in order. `answered` is the agent that answers such calls.

    A hand-off counts once it is done, even if the agent that got the call said nothing.
    """
    team = team_of(answered)
    names = [turn.agent for turn in record.turns if turn.agent is not None]
    spoke = [team[name] for name in names if name in team] if names else [answered]
    if not spoke:
        log.warning(
            "the outcome is not filled in: agent %r had the call, and %r is chosen for it now",
            names[-1],
            answered.name,
            extra={"call_sid": record.call_sid},
        )
        return []
    handed_over = {hand_off_output(name): agent for name, agent in team.items()}
    targets = [handed_over[tool.output] for tool in record.tools if tool.output in handed_over]
    return [spoke[0], *targets] if targets else spoke
