"""The tables: held against the migrations, with times that keep their zone and rows that go with their call."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from phoneagent.store import database, schema
from phoneagent.store.database import Database
from tests.store.conftest import SID, upgrade

pytestmark = pytest.mark.anyio
NOON = datetime(2026, 11, 20, 12, 0, 0, 123000, tzinfo=UTC)
PARIS = timezone(timedelta(hours=1))
CAMPAIGNS = {"campaigns", "campaign_calls", "do_not_call"}
OF_A_CALL = [table for table in schema.metadata.sorted_tables if table.foreign_keys]


@pytest.mark.parametrize("since", ["0001", "nothing"])
async def test_migrations_build_what_the_code_expects(url: str, since: str) -> None:
    base = Database(url)
    if since != "nothing":  # an empty database is not migrated, but made
        oldest = partial(database._upgrade, revision=since)
        await base._transaction(base.writing, 60, lambda connection: connection.run_sync(oldest))
    assert await upgrade(url) == "0017"

    def differences(sync: sa.Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(sync), schema.metadata))

    assert await base.read(lambda connection: connection.run_sync(differences)) == []
    await base.close()


# --- times ---


@pytest.mark.parametrize("moment", [NOON, NOON.astimezone(PARIS)])
def test_sqlite_is_given_utc_without_a_zone_and_postgresql_utc(moment: datetime) -> None:
    time = schema.UtcTime()
    assert time.process_bind_param(moment, sqlite.dialect()) == NOON.replace(tzinfo=None)
    bound = time.process_bind_param(moment, postgresql.dialect())
    assert bound == NOON
    assert bound is not None
    assert bound.tzinfo is UTC


@pytest.mark.parametrize("stored", [NOON.replace(tzinfo=None), NOON, NOON.astimezone(PARIS)])
def test_a_moment_that_is_read_is_aware_and_in_utc(stored: datetime) -> None:
    read = schema.UtcTime().process_result_value(stored, sqlite.dialect())
    assert read == NOON
    assert read is not None
    assert read.tzinfo is UTC


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()], ids=["sqlite", "postgresql"])
def test_no_moment_stays_none(dialect: Dialect) -> None:
    assert schema.UtcTime().process_bind_param(None, dialect) is None
    assert schema.UtcTime().process_result_value(None, dialect) is None


async def test_milliseconds_and_the_zone_survive_the_database(ready: str) -> None:
    base = Database(ready)

    async def work(connection: AsyncConnection) -> Any:
        await connection.execute(sa.insert(schema.claims).values(name="token", until=NOON.astimezone(PARIS)))
        return await connection.scalar(sa.select(schema.claims.c.until))

    read = await base.write(work)
    await base.close()
    assert (read, read.utcoffset()) == (NOON, timedelta(0))


# --- what hangs on a call ---


def some_value(column: sa.Column[Any]) -> Any:
    if column.name == "call_sid":
        return SID
    if isinstance(column.type, sa.JSON):
        return []
    kind = column.type.python_type if not isinstance(column.type, schema.UtcTime) else datetime
    return NOON if kind is datetime else kind(1)


def test_everything_but_what_processes_tell_each_other_hangs_on_a_call() -> None:
    free = {table.name for table in schema.metadata.sorted_tables} - {table.name for table in OF_A_CALL}
    told = {"next_steps", "transfers", "commands", "outbound_calls", "claims", "events"}
    assert free == {"calls", *told, *CAMPAIGNS}


async def test_everything_that_hangs_on_a_call_goes_with_it(ready: str) -> None:
    base = Database(ready)
    call = {"sid": SID, "stream_sid": "MZ1", "direction": "inbound", "started_at": NOON}

    async def work(connection: AsyncConnection) -> list[int]:
        async def count() -> int:
            counts = [await connection.scalar(sa.select(sa.func.count()).select_from(each)) for each in OF_A_CALL]
            return sum(each or 0 for each in counts)

        await connection.execute(sa.insert(schema.calls).values(call))
        for table in OF_A_CALL:
            await connection.execute(sa.insert(table).values({each.name: some_value(each) for each in table.c}))
        before = await count()
        await connection.execute(sa.delete(schema.calls))
        return [before, await count()]

    assert await base.write(work) == [len(OF_A_CALL), 0]
    await base.close()
