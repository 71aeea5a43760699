"""The model's side of a call: one session after another, between a real bridge and servers that come and go."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Never

import pytest

from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.policy import Policy
from phoneagent.calls import model_sessions
from phoneagent.calls.model_sessions import ModelSessions, ModelSocket
from phoneagent.errors import EndpointError, EndpointRefused, EndpointUnreachable
from phoneagent.events import Trouble
from phoneagent.protocol import realtime
from phoneagent.protocol.carrier import Started
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
AWAY = EndpointUnreachable("the model's socket broke")
THROWN_OUT = EndpointRefused("the model closed the session with 1008")


class Model:
    """A session: what the server sends, and whether it was aborted."""

    def __init__(self, name: str = "first", *, dropped: tuple[str, ...] = (), **effective: Any) -> None:
        self.name = name
        self.dropped = dropped
        self.effective = effective
        self.incoming: asyncio.Queue[bytes | EndpointError] = asyncio.Queue()
        self.aborted = False

    writable = True

    async def read(self, take: Callable[[bytes], None], resumed: Callable[[], None]) -> Never:
        while not isinstance(received := await self.incoming.get(), EndpointError):
            take(received)
        raise received

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.incoming.put_nowait(EndpointUnreachable("aborted"))

    def write(self, messages: Iterable[realtime.ToModel]) -> None: ...
    async def close(self) -> None: ...
    def decode(self, raw: bytes) -> realtime.FromModel:
        return realtime.decode(raw)


class Rig:
    """The sessions of a call, and what was done for them, in order."""

    def __init__(self, *servers: Model | EndpointError | asyncio.Future[Model]) -> None:
        self.servers = deque(servers)
        self.bridge = Bridge(Policy(renews=True), call_sid="CA1")
        self.bridge.receive_from_caller(
            Started(stream_sid="MZ1", call_sid="CA1", account_sid="AC1"), asyncio.get_running_loop().time()
        )
        self.opened: list[bool] = []
        """Whether each session was to be opened elsewhere."""
        self.done: list[str] = []
        self.taken: list[tuple[str, bytes]] = []
        self.sessions = ModelSessions(
            self.bridge,
            self.open,
            prepare=self.prepare,
            take=self.take,
            flush=self.flush,
            resumed=self.flush,
            watch=lambda task: task,
        )

    async def open(self, elsewhere: bool) -> ModelSocket:
        self.opened.append(elsewhere)
        if not self.servers:
            await asyncio.Event().wait()
        server = self.servers.popleft()
        if isinstance(server, asyncio.Future):
            server = await server
        if isinstance(server, EndpointError):
            raise server
        return server

    async def prepare(self) -> None:
        self.done.append("prepare")
        assert not self.bridge.conversation.connected  # nothing is sent to a session that is another agent's

    def take(self, model: ModelSocket, raw: bytes) -> None:
        assert isinstance(model, Model)
        self.taken.append((model.name, raw))

    def flush(self) -> None:
        self.done.append("connected" if self.bridge.conversation.connected else "flush")
        self.bridge.requests.clear()

    @property
    def troubles(self) -> list[str]:
        return [event.what for event in self.bridge.reporter.events if isinstance(event, Trouble)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.sessions.run())
        try:
            async with asyncio.timeout(HANG_SECONDS):
                yield task
        finally:
            task.cancel()
            await asyncio.gather(task, *self.sessions.tasks, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


# --- one session ---


async def test_a_session_is_prepared_between_its_opening_and_its_use() -> None:
    rig = Rig(Model())
    async with rig.running():
        await until(lambda: rig.bridge.conversation.connected)
        await asyncio.sleep(0)
    assert rig.done == ["flush", "prepare", "connected"]
    assert rig.opened == [False]


async def test_its_events_are_taken_in_order() -> None:
    model = Model()
    rig = Rig(model)
    async with rig.running():
        for raw in (b"1", b"2", b"3"):
            model.incoming.put_nowait(raw)
        await until(lambda: len(rig.taken) == 3)
    assert rig.taken == [("first", b"1"), ("first", b"2"), ("first", b"3")]


async def test_what_the_server_refused_of_the_session_is_reported() -> None:
    rig = Rig(Model(dropped=("tracing (unknown field)",)))
    async with rig.running():
        await until(lambda: rig.bridge.conversation.connected)
    assert rig.troubles == ["the session runs without tracing (unknown field)"]


async def test_what_the_next_session_goes_without_as_well_is_reported_once() -> None:
    first, second = Model(dropped=("the tool f (no)",)), Model("second", dropped=("the tool f (no)", "tracing (no)"))
    rig = Rig(first, second)
    async with rig.running():
        first.incoming.put_nowait(AWAY)
        await until(lambda: rig.sessions.current is second and rig.bridge.conversation.connected)
    told = [trouble for trouble in rig.troubles if "runs without" in trouble]
    assert told == ["the session runs without the tool f (no)", "the session runs without tracing (no)"]


async def test_when_the_session_ends_by_itself_is_known_from_the_server() -> None:
    rig = Rig(Model(expires_at=time.time() + 1000))
    now = asyncio.get_running_loop().time()
    async with rig.running():
        await until(lambda: rig.bridge.conversation.connected)
    due = rig.bridge.renewal.get_timer()
    assert due is not None
    assert 690 < due - now < 710  # the next one is opened five minutes before


async def test_where_the_server_does_not_say_when_no_next_session_is_due() -> None:
    rig = Rig(Model())
    async with rig.running():
        await until(lambda: rig.bridge.conversation.connected)
    assert rig.bridge.renewal.get_timer() is None


async def test_a_session_is_aborted_when_the_call_is_over() -> None:
    model = Model()
    rig = Rig(model)
    async with rig.running() as task:
        await until(lambda: rig.bridge.conversation.connected)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert model.aborted


# --- the next one where it is lost ---


async def test_where_a_session_is_lost_the_next_one_comes_at_once() -> None:
    first, second = Model(), Model("second")
    rig = Rig(first, second)
    async with rig.running():
        first.incoming.put_nowait(AWAY)
        await until(lambda: rig.sessions.current is second)
        second.incoming.put_nowait(b"1")
        await until(lambda: bool(rig.taken))
    assert first.aborted
    assert rig.opened == [False, False]
    assert rig.troubles == ["model session lost (no. 1): the model's socket broke"]


async def test_after_a_refusal_the_next_session_is_elsewhere_and_the_one_after_it_is_not() -> None:
    models = [Model(), Model("second"), Model("third")]
    rig = Rig(*models)
    async with rig.running():
        models[0].incoming.put_nowait(THROWN_OUT)
        await until(lambda: rig.sessions.current is models[1])
        models[1].incoming.put_nowait(AWAY)
        await until(lambda: rig.sessions.current is models[2])
    assert rig.opened == [False, True, False]


async def test_sessions_that_do_not_come_are_tried_again_after_pauses_that_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(*[AWAY] * 8, Model())
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def paused(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    async with rig.running() as task:
        with monkeypatch.context() as patch:
            patch.setattr(model_sessions.asyncio, "sleep", paused)
            patch.setattr(model_sessions.random, "random", lambda: 1.0)
            while rig.sessions.current is None and not task.done():
                await sleep(0)
    assert pauses == pytest.approx([0.25, 0.2, 0.4, 0.8, 1.6, 1.6, 1.6, 1.6])


async def test_a_session_that_is_lost_at_once_is_one_more_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    rig = Rig(AWAY, AWAY, model, AWAY, AWAY)
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def paused(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    async with rig.running():
        with monkeypatch.context() as patch:
            patch.setattr(model_sessions.asyncio, "sleep", paused)
            patch.setattr(model_sessions.random, "random", lambda: 0.0)
            while rig.sessions.current is not model:
                await sleep(0)
            model.incoming.put_nowait(AWAY)
            while len(rig.opened) < 6:
                await sleep(0)
    assert pauses == pytest.approx([0, 0.1, 0, 0.1, 0.2])  # at least half of each, by chance


async def test_where_every_endpoint_refuses_nothing_more_is_opened() -> None:
    rig = Rig(EndpointRefused("the key is wrong"))
    async with rig.running() as task:
        await task
    assert rig.opened == [False]
    assert rig.troubles == ["model session lost: the key is wrong"]
    assert rig.bridge.closing.active
    assert rig.done == ["flush"]  # the apology is written


async def test_where_the_call_is_over_no_other_session_is_opened() -> None:
    model = Model()
    rig = Rig(model)
    async with rig.running() as task:
        await until(lambda: rig.bridge.conversation.connected)
        rig.bridge.end(asyncio.get_running_loop().time())
        model.incoming.put_nowait(AWAY)
        await task
    assert rig.opened == [False]


# --- the next one beside the present one ---


async def test_a_session_that_was_opened_beside_takes_over() -> None:
    first, second = Model(), Model("second")
    rig = Rig(first, second)
    async with rig.running():
        await until(lambda: rig.sessions.current is first)
        rig.sessions.open_next()
        rig.sessions.open_next()  # one is enough
        await until(lambda: len(rig.opened) == 2)
        await until(lambda: all(task.done() for task in rig.sessions.tasks))
        assert rig.sessions.current is first
        rig.sessions.renew(elsewhere=False)
        await until(lambda: rig.sessions.current is second)
        await until(lambda: rig.bridge.conversation.connected)
        assert not second.aborted
    assert rig.opened == [False, False]
    assert rig.sessions.tasks == []


async def test_a_session_that_is_still_being_opened_beside_is_waited_for() -> None:
    first, second = Model(), Model("second")
    coming: asyncio.Future[Model] = asyncio.get_running_loop().create_future()
    rig = Rig(first, coming)
    async with rig.running():
        await until(lambda: rig.sessions.current is first)
        rig.sessions.open_next()
        await until(lambda: len(rig.opened) == 2)
        first.incoming.put_nowait(AWAY)
        await until(lambda: first.aborted)
        assert rig.sessions.current is first
        coming.set_result(second)
        await until(lambda: rig.sessions.current is second)
    assert rig.opened == [False, False]


@pytest.mark.parametrize("error", [AWAY, THROWN_OUT])
async def test_a_session_that_does_not_open_beside_is_reported_and_opened_once_it_is_needed(
    error: EndpointError,
) -> None:
    first, second = Model(), Model("second")
    rig = Rig(first, error, second)
    async with rig.running():
        await until(lambda: rig.sessions.current is first)
        rig.sessions.open_next()
        await until(lambda: bool(rig.troubles))
        assert rig.troubles == [f"the next model session did not open: {error}"]
        assert rig.sessions.tasks == []
        first.incoming.put_nowait(AWAY)
        await until(lambda: rig.sessions.current is second)
    assert rig.opened == [False, False, False]


async def test_a_session_beside_at_an_endpoint_that_is_of_no_use_is_dropped() -> None:
    first, beside, third = Model(), Model("beside"), Model("third")
    rig = Rig(first, beside, third)
    async with rig.running():
        await until(lambda: rig.sessions.current is first)
        rig.sessions.open_next()
        await until(lambda: all(task.done() for task in rig.sessions.tasks))
        rig.sessions.renew(elsewhere=True)
        await until(lambda: rig.sessions.current is third)
    assert beside.aborted
    assert rig.opened == [False, False, True]


async def test_a_session_that_is_being_opened_beside_is_given_up_with_the_call() -> None:
    first = Model()
    rig = Rig(first)
    async with rig.running() as task:
        await until(lambda: rig.sessions.current is first)
        rig.sessions.open_next()
        (beside,) = rig.sessions.tasks
        await until(lambda: len(rig.opened) == 2)
        first.incoming.put_nowait(AWAY)
        await until(lambda: first.aborted)
        await until(lambda: rig.sessions.tasks == [])  # it is waited for now
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert beside.cancelled()


# --- giving a session up ---


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_a_session_is_given_up_for_another_one(elsewhere: bool) -> None:
    first, second = Model(), Model("second")
    rig = Rig(first, second)
    async with rig.running():
        await until(lambda: rig.bridge.conversation.connected)
        rig.sessions.renew(elsewhere=elsewhere)
        await until(lambda: rig.sessions.current is second)
    assert first.aborted
    assert rig.opened == [False, elsewhere]


async def test_before_there_is_a_session_there_is_none_to_give_up() -> None:
    rig = Rig()
    rig.sessions.renew(elsewhere=True)
    assert rig.sessions.current is None
    assert rig.sessions.tasks == []
