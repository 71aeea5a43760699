"""Commands as rows: taken once, withdrawn or taken but never both, and deleted when they have been read."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.store import Store
from phoneagent.store.commands import TAKE_SECONDS
from phoneagent.store.rows import now
from phoneagent.store.schema import commands as table
from tests.store.conftest import SID, ended, rows_left, started, stores

pytestmark = pytest.mark.anyio
OTHER = "CA" + "2" * 32
BODY = b'{"text": "Ol\xc3\xa9"}'
ACCEPTED = {"call_sid": SID, "operation": "say", "muted": False}


async def ask(store: Store, id: str, call_sid: str = SID) -> None:
    assert await store.commands.add(id, call_sid, "say", digest="d", body=BODY) is None


async def make_older(store: Store, seconds: float) -> None:
    async def write(connection: AsyncConnection) -> None:
        await connection.execute(sa.update(table).values(at=now() - timedelta(seconds=seconds)))

    await store._database.write(write)


async def test_a_command_is_taken_and_answered_by_the_process_that_has_the_call(ready: str) -> None:
    async with stores(ready) as (here, there):
        await ask(here, "a")
        assert await there.commands.take({OTHER}) is None
        taken = await there.commands.take({OTHER, SID})
        assert taken is not None
        assert (taken.id, taken.call_sid, taken.action, taken.body) == ("a", SID, "say", BODY)
        asked = await here.commands.get("a")
        assert asked is not None
        assert (asked.taken, asked.answer) == (True, None)
        assert (await rows_left(here, table))[0].body is None, "what was asked is deleted"
        assert await here.commands.answers(["a"]) == {}
        await there.commands.answer("a", ACCEPTED)
        assert await here.commands.answers(["a", "b"]) == {"a": ACCEPTED}
        asked = await here.commands.get("a")
        assert asked is not None
        assert asked.answer == ACCEPTED
        await here.commands.delete("a", answered=True)
        assert await here.commands.get("a") is None


async def test_of_many_processes_one_takes_each_command_in_the_order_of_asking(ready: str) -> None:
    async with stores(ready, 3) as (first, second, third):
        ids = [f"{number:02}" for number in range(12)]
        for id in ids:
            await ask(first, id)
        taken: list[str] = []

        async def work(store: Store) -> None:
            while (command := await store.commands.take({SID})) is not None:
                taken.append(command.id)

        await asyncio.gather(*(work(each) for each in (first, second, third)))
        assert Counter(taken) == Counter(ids)
        for id in ids:
            await ask(first, f"again {id}")
        assert [getattr(await second.commands.take({SID}), "id", None) for _ in ids] == [f"again {id}" for id in ids]


async def test_a_command_is_withdrawn_or_taken_but_never_both(ready: str) -> None:
    async with stores(ready) as (here, there):
        for number in range(20):
            await ask(here, str(number))
            withdrawn, taken = await asyncio.gather(here.commands.withdraw(str(number)), there.commands.take({SID}))
            assert withdrawn == (taken is None)
            assert await there.commands.take({SID}) is None
        assert not await here.commands.withdraw("another")


async def test_a_command_whose_process_died_is_not_taken_later(ready: str) -> None:
    async with stores(ready) as (here, there):
        await ask(here, "a")
        await make_older(here, TAKE_SECONDS + 1)
        assert await there.commands.take({SID}) is None


async def test_a_command_with_the_same_id_is_one_command(ready: str) -> None:
    async with stores(ready) as (here, there):
        assert await here.commands.add("a", SID, "say", digest="d", body=None) is None  # done here
        assert await there.commands.take({SID}) is None
        asked = await there.commands.add("a", SID, "say", digest="e", body=BODY)
        assert asked is not None
        assert (asked.digest, asked.taken, asked.answer) == ("d", True, None)
        both = await asyncio.gather(
            *(each.commands.add("b", SID, "say", digest="d", body=BODY) for each in (here, there))
        )
        assert sum(each is None for each in both) == 1


async def test_a_newer_command_of_the_same_id_is_not_deleted_as_one_whose_answer_was_read(ready: str) -> None:
    async with Store.from_url(ready) as store:
        await ask(store, "a")
        await store.commands.delete("a", answered=True)
        assert await store.commands.take({SID}) is not None
        await store.commands.delete("a", answered=True)
        assert await store.commands.get("a") is not None
        await store.commands.delete("a")
        assert await store.commands.get("a") is None


async def test_commands_are_forgotten_and_swept(ready: str) -> None:
    async with Store.from_url(ready) as store:
        store.tell(started())
        store.tell(ended())
        await ask(store, "a")
        await ask(store, "b", OTHER)
        await store.forget(SID)
        assert [row.id for row in await rows_left(store, table)] == ["b"]
        await store.sweep()
        assert len(await rows_left(store, table)) == 1
        await make_older(store, TAKE_SECONDS + 1)
        await store.sweep()
        assert await rows_left(store, table) == [], "the process that asked has died, and nothing will be done"
        await ask(store, "c", OTHER)
        assert await store.commands.take({OTHER}) is not None
        await make_older(store, TAKE_SECONDS + 1)
        await store.sweep()
        assert len(await rows_left(store, table)) == 1
        await make_older(store, 25 * 3600)
        await store.sweep()
        assert await rows_left(store, table) == []


async def test_without_a_file_there_are_no_commands(tmp_path: object) -> None:
    async with Store.from_url(f"sqlite:///{tmp_path}/none.db") as store:
        assert await store.commands.take({SID}) is None
        assert await store.commands.get("a") is None
        assert await store.commands.answers(["a"]) == {}
        assert store.empty
