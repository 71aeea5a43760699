"""Requests to act on a call in another process of the same database, and requests that are done only once.

The process that gets the request writes a command (`store/commands.py`) and waits for its answer. The process that has
the call takes the command and carries it out with the same code as its own requests, so both give the same answers. A
command that no process takes in time is withdrawn, and never carried out.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from phoneagent.console.problems import BadRequest, Conflict
from phoneagent.errors import StoreError
from phoneagent.events import CallStarted, ControlOperation, Event
from phoneagent.store import Store
from phoneagent.store.commands import Command
from phoneagent.store.notices import Changes

log = logging.getLogger("phoneagent.console")

ANSWER_SECONDS = 5.0
"""How long a command waits to be taken, and how much longer for its answer."""

POLL_SECONDS = 2.0
"""How often to check for commands if no notice comes."""

MAX_KEYS = 10_000
"""How many idempotency keys are remembered without a database, the newest of all calls."""

MAX_WAITING = 100
"""How many requests of this process may wait for another process."""

UNKNOWN = "no process has such a call, and none is recorded: GET /calls lists them"
OVER = "this call is over: GET /calls?state=live lists those that can be acted on"
KEY_USED = "this Idempotency-Key came with another request before: make a new one for each request"
_NOT_TAKEN = (
    f"no process took this request within {ANSWER_SECONDS:g} s, so nothing is done, now or later: the one that has the "
    "call died, is stuck, or has no control API; look at GET /calls/{sid} and send the request again"
)
_NOT_ANSWERED = (
    "a process took this request and did not answer, so it may be done or not: the call's events tell; to do it again, "
    "send it with a new Idempotency-Key"
)
_AWAY = (
    "the database does not answer, so this request may still be done, within the next half minute, or not: the call's "
    "events tell"
)
_FAILED = "the process that has the call failed at this request: its log says why"
_BUSY = f"{MAX_WAITING} requests wait for other processes: send this one again later"


class Accepted(msgspec.Struct, frozen=True):
    """A request that the call has accepted. While the agent is muted, its words wait."""

    call_sid: str
    operation: ControlOperation
    muted: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request: the call, the name of the action, the unchanged body, and the idempotency key if there is one."""

    call_sid: str
    action: str
    body: bytes
    key: str | None

    @property
    def name(self) -> str:
        """The name that all requests with this key share. The key cannot be read from it."""
        return hashlib.sha256("\0".join((self.call_sid, self.action, self.key or "")).encode()).hexdigest()

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


class AnsweredElsewhere(BadRequest):
    """A problem in the answer of the process that has the call."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class NoAnswer(BadRequest):
    """No process has answered in time."""

    status = 504


class Busy(BadRequest):
    """Too many requests wait already."""

    status = 503


class Unknown(BadRequest):
    """There is no such call."""

    status = 404


class KeyUsed(Conflict):
    """An idempotency key was used for another request before."""


CarryOut: TypeAlias = Callable[[str, str, bytes], Awaitable[Accepted]]
"""A function that acts on a call of this process, given the call, the name of the action, and the body of the request.
It raises `BadRequest` if that is refused."""


class Commands:
    """The commands of one process: those for other processes, and those from other processes for its calls.

    `calls` are those that can be acted on here, by CallSid.
    """

    def __init__(self, store: Store, calls: Container[str], carry_out: CarryOut) -> None:
        self._store = store
        self._calls = calls
        self._carry_out = carry_out
        self._asking = 0
        self._waiting: dict[asyncio.Future[dict[str, Any]], str] = {}  # the ids of the commands
        self._answers: Changes | None = None
        self._reading: asyncio.Task[None] | None = None
        self._changes: Changes | None = None
        self._taking: asyncio.Task[None] | None = None
        self._troubled = False

    # --- requests to this process -------------------------------------------------------------------------------------

    async def run(self, wanted: Wanted, here: Callable[[], Awaitable[Accepted]]) -> Accepted:
        """Do a request with `here`, or in the process that has the call. A request with a known key is not done again.

        Raises:
            BadRequest: it was refused, or not answered.
            StoreError: the database, which it needs, does not answer.
        """
        is_here = wanted.call_sid in self._calls
        if is_here:
            return await (here() if wanted.key is None else self._ask(wanted, here))
        if self._asking >= MAX_WAITING:
            raise Busy(_BUSY)
        self._asking += 1
        try:
            return await self._ask(wanted, None)
        finally:
            self._asking -= 1

    async def _ask(self, wanted: Wanted, here: Callable[[], Awaitable[Accepted]] | None) -> Accepted:
        """Do a request with `here` if that is given, else in another process."""
        rows, id = self._store.commands, secrets.token_hex(16) if wanted.key is None else wanted.name
        asked = None if wanted.key is None else await rows.get(id)
        if asked is None:
            if here is None:
                await check_open(wanted.call_sid, self._store)
            body = wanted.body if here is None else None
            with _certain(nothing_done=here is not None):
                asked = await rows.add(id, wanted.call_sid, wanted.action, digest=wanted.digest, body=body)
        if asked is None and here is not None:
            return await self._do(id, here)
        if asked is not None and asked.digest != wanted.digest:
            raise KeyUsed(KEY_USED)
        return await self._wait(id, forget=wanted.key is None)

    async def _do(self, id: str, here: Callable[[], Awaitable[Accepted]]) -> Accepted:
        """Do a request with a key here."""
        try:
            accepted = await here()
        except Exception:  # refused, or failed: the request may be repeated, as with a call of another process
            with suppress(StoreError):  # the key stays used, which does no harm
                await self._store.commands.delete(id)
            raise
        await self._answer(id, msgspec.to_builtins(accepted))
        return accepted

    async def _wait(self, id: str, *, forget: bool) -> Accepted:
        """Return the answer to a command; with `forget`, delete it afterwards."""
        answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[answered] = id
        try:
            answer = await self._answer_to(id, answered)
        finally:
            del self._waiting[answered]
        is_problem = "detail" in answer
        if is_problem or forget:
            with suppress(StoreError):  # the hourly sweep deletes it
                await self._store.commands.delete(id, answered=True)
        if is_problem:
            raise AnsweredElsewhere(int(answer["status"]), str(answer["detail"]))
        return msgspec.convert(answer, Accepted)

    async def _answer_to(self, id: str, answered: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_answers(), name="phoneagent answers")
        elif self._answers is not None:
            self._answers.arrived.set()  # the answer may be there already
        for _ in ("to be taken", "to be answered"):
            await asyncio.wait([answered], timeout=ANSWER_SECONDS)
            if answered.done():
                return answered.result()
            rows = self._store.commands  # another request with the same key may have withdrawn it
            with _certain(nothing_done=False):
                if await rows.withdraw(id) or await rows.get(id) is None:
                    raise NoAnswer(_NOT_TAKEN)
        raise NoAnswer(_NOT_ANSWERED)

    async def _read_answers(self) -> None:
        """Read the answers that requests wait for, all in one query."""
        with self._store.notices.watch("commands") as self._answers:
            while self._waiting:
                await self._answers.wait(POLL_SECONDS)
                try:
                    found = await self._store.commands.answers(set(self._waiting.values()))
                except StoreError as error:  # the waiting requests will find out
                    log.debug("no answers can be read now: %s", error)
                    continue
                for answered, id in self._waiting.items():
                    if id in found and not answered.done():
                        answered.set_result(found[id])

    # --- requests from other processes --------------------------------------------------------------------------------

    def tell(self, event: Event, stream_sid: str) -> None:
        """Take commands from the first call on. A call that came from another process may already have one waiting."""
        if not isinstance(event, CallStarted):
            return
        if self._taking is None or self._taking.done():
            self._taking = asyncio.create_task(self._take_all(), name="phoneagent commands")
        if self._changes is not None:
            self._changes.arrived.set()

    async def close(self) -> None:
        """Take no more commands, and read no more answers."""
        tasks = [each for each in (self._taking, self._reading) if each is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take_all(self) -> None:
        with self._store.notices.watch("commands") as self._changes:
            while True:
                await self._changes.wait(POLL_SECONDS)
                if not self._calls:
                    continue
                try:
                    while (command := await self._store.commands.take(self._calls)) is not None:
                        await self._obey(command)
                    self._troubled = False
                except StoreError as error:
                    level = logging.DEBUG if self._troubled else logging.WARNING
                    log.log(level, "no requests of other processes can be taken now: %s", error)
                    self._troubled = True

    async def _obey(self, command: Command) -> None:
        try:
            answer = msgspec.to_builtins(await self._carry_out(command.call_sid, command.action, command.body))
        except BadRequest as error:
            answer = {"status": error.status, "detail": str(error)}
        except StoreError as error:
            answer = {"status": 503, "detail": str(error)}
        except Exception:  # one request must not keep the others waiting
            log.exception("internal error in phoneagent: %s failed", command.action)
            answer = {"status": 500, "detail": _FAILED}
        await self._answer(command.id, answer)

    async def _answer(self, id: str, answer: dict[str, Any]) -> None:
        try:
            await self._store.commands.answer(id, answer)
        except StoreError as error:  # it was done all the same
            log.warning("a request was done, but its answer is not recorded: %s", error)


@contextmanager
def _certain(*, nothing_done: bool) -> Iterator[None]:
    """Let a database error through if nothing was done; else report that the result is unknown."""
    try:
        yield
    except StoreError:
        if nothing_done:
            raise
        raise NoAnswer(_AWAY) from None


class Once:
    """Requests that are done once, without a database: only this process knows which keys have been used."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[str, Accepted]] = OrderedDict()
        self._running = asyncio.Lock()

    async def run(self, wanted: Wanted, here: Callable[[], Awaitable[Accepted]]) -> Accepted:
        """Do a request with `here`, unless its key was used before. Raises `BadRequest`."""
        if wanted.key is None:
            return await here()
        async with self._running:
            if (known := self._known.get(wanted.name)) is None:
                self._known[wanted.name] = known = wanted.digest, await here()
                if len(self._known) > MAX_KEYS:
                    self._known.popitem(last=False)
        digest, accepted = known
        if digest != wanted.digest:
            raise KeyUsed(KEY_USED)
        return accepted


async def check_open(call_sid: str, store: Store | None) -> None:
    """Check whether another process may have a call that this one does not have.

    Raises:
        BadRequest: the call is over, or not recorded.
        StoreError: the database does not answer.
    """
    standing = None if store is None else await store.standing(call_sid)  # not the record, which may be long
    if standing is None or standing.stream_sid is None:
        raise Unknown(UNKNOWN)
    if standing.ended_by is not None:
        raise Conflict(OVER)
