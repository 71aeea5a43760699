"""Acting on a call of another process: done there, once, and answered as if it were here; or told to be not done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phoneagent import CallControlled, CallEnded, PhoneApp
from phoneagent.console import commands
from phoneagent.console.commands import Accepted, Commands, Wanted
from phoneagent.console.problems import BadRequest, Conflict
from phoneagent.errors import StoreError
from phoneagent.store import Store, schema
from tests.asgi import Answer
from tests.calls.shell import Running
from tests.console.test_actions import BODIES, SENT, detail, post, prompts, take_in
from tests.console.test_api import STARTED, with_token
from tests.patience import HANG_SECONDS
from tests.store.conftest import Outage, new_schema, rows_left, until, upgrade

pytestmark = pytest.mark.anyio
SAY = Wanted("CA1", "say", b'{"text":"Hi"}', None)
DONE = Accepted("CA1", "say", False)


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A database that has a live call."""
    async with AsyncExitStack() as stack:
        url = f"sqlite:///{tmp_path}/calls.db"
        if request.param == "postgresql":
            url = await stack.enter_async_context(new_schema())
        await upgrade(url)
        async with Store.from_url(url) as store:
            store.tell(STARTED)
        yield url


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "ANSWER_SECONDS", HANG_SECONDS)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, patient: None) -> None:
    monkeypatch.setattr(commands, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(commands, "POLL_SECONDS", 0.05)


async def not_here() -> Accepted:
    raise AssertionError("another process has the call")


class Process:
    """What a process has of commands: a store, its calls, and what was done to them."""

    def __init__(self, url: str, *calls: str) -> None:
        self.store = Store.from_url(url)
        self.calls = set(calls)
        self.done: list[str] = []
        self.act: Callable[[], Awaitable[Accepted]] = self._accept
        self.commands = Commands(self.store, self.calls, self._carry_out)
        if calls:
            self.commands.tell(STARTED, "MZ1")

    async def ask(self, wanted: Wanted = SAY) -> Accepted:
        return await self.commands.run(wanted, self._here if wanted.call_sid in self.calls else not_here)

    async def _here(self) -> Accepted:
        return await self._carry_out(SAY.call_sid, SAY.action, SAY.body)

    async def _carry_out(self, call_sid: str, action: str, body: bytes) -> Accepted:
        assert (call_sid, action, body) == (SAY.call_sid, SAY.action, SAY.body)
        self.done.append(action)
        return await self.act()

    async def _accept(self) -> Accepted:
        return DONE

    async def die(self) -> None:
        """Take nothing more, and tell nothing."""
        await self.commands.close()

    async def rows(self) -> list[Any]:
        return await rows_left(self.store, schema.commands)


@asynccontextmanager
async def processes(url: str) -> AsyncIterator[tuple[Process, Process]]:
    """A process that has a call, and another one."""
    owner, other = Process(url, "CA1"), Process(url)
    try:
        yield owner, other
    finally:
        for each in (owner, other):
            await each.die()
            await each.store.close()


async def refusal(asking: Awaitable[Accepted]) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        await asking
    return caught.value


async def test_a_request_is_done_by_the_process_that_has_the_call(url: str) -> None:
    async with processes(url) as (owner, other):
        assert await other.ask() == DONE
        assert (owner.done, other.done) == (["say"], [])
        assert await owner.rows() == [], "nothing of it stays"
        for _ in range(5):
            assert await other.ask() == DONE
        assert len(owner.done) == 6


async def test_what_the_process_with_the_call_refuses_is_refused(url: str) -> None:
    async with processes(url) as (owner, other):

        async def refuse() -> Accepted:
            raise Conflict("this call is about to end")

        owner.act = refuse
        error = await refusal(other.ask())
        assert (error.status, str(error)) == (409, "this call is about to end")
        keyed = replace(SAY, key="k")
        for _ in range(2):  # it was not done, so the key is still good
            assert (await refusal(other.ask(keyed))).status == 409
        assert (await refusal(owner.ask(keyed))).status == 409
        assert await owner.rows() == []
        owner.act = owner._accept
        assert await other.ask(keyed) == DONE


async def test_a_request_that_fails_there_is_an_error_and_the_next_one_is_done(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with processes(url) as (owner, other):

        async def fail() -> Accepted:
            raise RuntimeError("a bug")

        owner.act = fail
        error = await refusal(other.ask())
        assert (error.status, "its log says why" in str(error)) == (500, True)
        assert "a bug" in caplog.text
        keyed = replace(SAY, key="k")
        assert (await refusal(other.ask(keyed))).status == 500
        with pytest.raises(RuntimeError):
            await owner.ask(keyed)
        assert await owner.rows() == [], "the key is still good"
        owner.act = owner._accept
        assert await owner.ask(keyed) == await other.ask() == DONE


async def test_a_key_that_comes_again_is_done_once_whichever_process_is_asked(url: str) -> None:
    async with processes(url) as (owner, other):
        keyed = replace(SAY, key="k")
        answers = await asyncio.gather(*(each.ask(keyed) for each in (owner, other, owner, other)))
        assert answers == [DONE] * 4
        third = Process(url, "CA1")  # the call has moved to it
        assert await third.ask(keyed) == DONE
        assert (owner.done, other.done, third.done) == (["say"], [], [])
        for each in (owner, other, third):
            error = await refusal(each.ask(replace(keyed, body=b"{}")))
            assert (error.status, "make a new one" in str(error)) == (409, True)
        assert await third.ask(replace(SAY, key="k2")) == DONE
        await third.die()
        await third.store.close()


async def test_what_no_process_takes_is_refused_and_never_done(
    url: str, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with processes(url) as (owner, other):
        await owner.die()
        for wanted in (SAY, replace(SAY, key="k")):
            error = await refusal(other.ask(wanted))
            assert (error.status, "nothing is done, now or later" in str(error)) == (504, True)
            assert await other.rows() == []
        successor = Process(url, "CA1")
        monkeypatch.setattr(commands, "ANSWER_SECONDS", HANG_SECONDS)
        assert await other.ask(replace(SAY, key="k")) == DONE
        assert successor.done == ["say"]
        await successor.die()
        await successor.store.close()


async def test_a_process_that_dies_at_a_request_leaves_it_open_whether_it_is_done(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with processes(url) as (owner, other):
        owner.act = asyncio.Event().wait  # type: ignore[assignment]
        keyed = replace(SAY, key="k")
        monkeypatch.setattr(commands, "ANSWER_SECONDS", 5.0)
        asking = asyncio.create_task(refusal(other.ask(keyed)))
        await until(lambda: owner.done)
        await owner.die()
        monkeypatch.setattr(commands, "ANSWER_SECONDS", 0.2)  # not before it is taken
        error = await asking
        assert (error.status, "may be done or not" in str(error)) == (504, True)
        successor = Process(url, "CA1")
        for each in (successor, other):
            assert "may be done or not" in str(await refusal(each.ask(keyed)))
        assert successor.done == []
        await successor.die()
        await successor.store.close()


async def test_a_request_waits_for_a_call_on_its_way_to_another_process(url: str) -> None:
    async with processes(url) as (owner, other):
        await owner.die()
        asking = asyncio.create_task(other.ask())
        while not await other.rows():
            await asyncio.sleep(0.005)
        successor = Process(url, "CA1")
        assert await asking == DONE
        await successor.die()
        await successor.store.close()


async def test_many_requests_at_once_are_each_done_once(url: str) -> None:
    async with processes(url) as (owner, other):
        reads = 0
        read = other.store.commands.answers

        async def count(ids: Any) -> Any:
            nonlocal reads
            reads += 1
            return await read(ids)

        other.store.commands.answers = count  # type: ignore[method-assign]
        answers = await asyncio.gather(*(other.ask() for _ in range(50)))
        assert answers == [DONE] * 50
        assert len(owner.done) == 50
        assert reads <= 3 * 50, "one look is for all that wait"
        assert await owner.rows() == []


async def test_not_more_requests_wait_than_a_process_bears(
    url: str, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MAX_WAITING", 1)
    async with processes(url) as (owner, other):
        await owner.die()
        errors = await asyncio.gather(*(refusal(other.ask()) for _ in range(3)))
        assert sorted(each.status for each in errors) == [503, 503, 504]
        assert await other.rows() == []


async def test_a_database_that_fails_ends_no_process(url: str, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage(url)
    await outage.open()
    async with processes(outage.url) as (owner, other):
        assert await other.ask() == DONE
        if not outage.is_sqlite:  # a lock on the file only delays
            await outage.begin()
            with pytest.raises(StoreError):
                await other.ask()
            assert await owner.ask() == DONE, "a call of this process needs no database"
            await outage.end()
            async with asyncio.timeout(HANG_SECONDS):
                while True:
                    with suppress(StoreError, BadRequest):
                        assert await other.ask() == DONE
                        break
        assert owner.commands._taking is not None
        assert not owner.commands._taking.done()
    await outage.close()


# --- over HTTP ---


@asynccontextmanager
async def apps(url: str) -> AsyncIterator[tuple[PhoneApp, PhoneApp, Running]]:
    """An app that has a call, another one on the same database, and the call."""
    here, there = with_token(store=Store.from_url(url)), with_token(store=Store.from_url(url))
    async with Running() as running:
        take_in(here, running)
        here._parts.emit(STARTED, "MZ1")
        yield here, there, running
        here.calls.clear()
    for each in (here, there):
        console = each._parts.console
        assert console is not None
        assert console.commands is not None
        await console.commands.close()
        assert each._parts.store is not None
        await each._parts.store.close()


def content(answer: Answer) -> Any:
    return answer.status, json.loads(answer.text)


async def test_each_action_does_there_what_it_does_here(url: str) -> None:
    async with apps(url) as (here, there, running):
        for name in ("note", "mute", "interrupt", "say"):
            elsewhere = await post(there, name, BODIES[name])
            assert content(elsewhere) == content(await post(here, name, BODIES[name]))
            assert (elsewhere.status, elsewhere.headers["cache-control"]) == (202, "no-store")
        assert prompts(running).count("They are a member.") == 2
        assert content(await post(there, "mute", {"muted": False}))[1]["muted"] is running.call.muted is False
        assert (await post(there, "hang-up", {})).status == 202
        refused = await post(there, "note", BODIES["note"])
        assert (refused.status, "about to end" in detail(refused)) == (409, True)
        assert content(refused) == content(await post(here, "note", BODIES["note"]))
        operations = [each.operation for each in running.events(CallControlled)]
        assert operations == [
            "note",
            "note",
            "mute",
            "mute",
            "interrupt",
            "interrupt",
            "say",
            "say",
            "unmute",
            "hang-up",
        ]


async def test_bad_bodies_are_refused_before_any_other_process_learns_of_them(url: str) -> None:
    async with apps(url) as (_, there, running):
        for body in (
            {"text": ""},
            {"text": 5},
            b"[" * 10_000,
            {"text": "Hi", "exactly": False, "interruptible": False},
        ):
            assert (await post(there, "say", body)).status == 400
        assert (await post(there, "say", b'"' + b"x" * 70_000 + b'"')).status == 413
        assert (await post(there, "say", BODIES["say"], {**SENT, "Idempotency-Key": "x" * 300})).status == 400
        assert (await post(there, "say", BODIES["say"], {"Content-Type": "application/json"})).status == 401
        assert running.events(CallControlled) == []


async def test_a_call_that_is_over_or_unknown_is_refused_at_once(url: str) -> None:
    async with apps(url) as (here, there, _):
        assert (await post(there, "note", BODIES["note"], sid="CA9")).status == 404
        assert here._parts.store is not None
        here._parts.store.tell(
            CallEnded(call_sid="CA1", ended_by="caller", reason="x", duration_ms=9, transcript=()), stream_sid="MZ1"
        )
        await here._parts.store.flush()
        answer = await post(there, "note", BODIES["note"])
        assert (answer.status, "is over" in detail(answer)) == (409, True)


async def test_a_request_for_what_another_release_does_not_know_is_refused(url: str) -> None:
    async with apps(url) as (_, there, _):
        console = there._parts.console
        assert console is not None
        assert console.commands is not None
        for name, said in (("dance", "of another release"), ("say", "text")):
            wanted = Wanted("CA1", name, b"{}", None)
            error = await refusal(console.commands.run(wanted, not_here))
            assert said in str(error)


async def test_a_request_to_a_call_that_leaves_meanwhile_is_a_conflict(url: str) -> None:
    async with apps(url) as (_, there, running):
        console = there._parts.console
        assert console is not None
        with pytest.raises(Conflict, match="send the request again"):  # it was taken, and the call has gone meanwhile
            await console._actions._carry_out("CA1", "note", json.dumps(BODIES["note"]).encode())
        assert prompts(running) == []


@pytest.mark.parametrize("key", [None, "k"])
async def test_what_is_asked_of_a_call_that_is_moving_is_done_in_its_next_stream(url: str, key: str | None) -> None:
    async with apps(url) as (here, there, running):
        running.session.hand_over_now("the server is leaving")
        headers = SENT if key is None else {**SENT, "Idempotency-Key": key}
        asking = [asyncio.create_task(post(each, "note", BODIES["note"], headers)) for each in (here, there)]
        assert here._parts.store is not None
        while not await rows_left(here._parts.store, schema.commands):
            await asyncio.sleep(0.005)
        async with Running() as successor:
            take_in(there, successor)
            there._parts.emit(replace(STARTED, stream_sid="MZ2", resumed=True), "MZ2")
            assert [(await each).status for each in asking] == [202, 202]
            assert len(prompts(successor)) == (2 if key is None else 1)
            there.calls.clear()
        assert running.events(CallControlled) == []


async def test_a_request_that_an_outage_overtakes_may_be_done_or_not(
    url: str, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with processes(url) as (owner, other):
        await owner.die()

        async def fail(*_: object, **__: object) -> Any:
            raise StoreError("it does not answer", retry=True)

        for name in ("withdraw", "add"):
            with monkeypatch.context() as patched:
                patched.setattr(other.store.commands, name, fail)
                error = await refusal(other.ask())
            assert (error.status, "may still be done" in str(error)) == (504, True)
        with monkeypatch.context() as patched:
            patched.setattr(owner.store.commands, "add", fail)
            with pytest.raises(StoreError):  # nothing is done here before its key is known
                await owner.ask(replace(SAY, key="k"))
        assert owner.done == []


def test_a_key_is_not_kept_in_clear() -> None:
    keyed = replace(SAY, key="+15550100001")
    assert keyed.name == replace(keyed, body=b"x").name
    assert "5550100001" not in keyed.name
    others = replace(keyed, call_sid="CA2"), replace(keyed, action="note"), replace(keyed, key="k")
    assert len({each.name for each in (keyed, *others)}) == 4
