"""A database that is away, full or silent, and what is recorded once it is back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from phoneagent.errors import StoreError
from phoneagent.store import Store, database, store, writer
from tests.store.conftest import CALLER, GREETING, OFFER, SID, WHOLE, WISH, Outage, ended, said, started, written

pytestmark = pytest.mark.anyio


async def test_an_outage_is_told_once_and_everything_is_recorded_after_it(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    async with Store.from_url(outage.url) as kept:
        kept.tell(started())
        await kept.flush()
        await outage.begin()
        for event in WHOLE[1:]:
            kept.tell(event)
        for _ in range(3):
            with pytest.raises(StoreError, match=r"SQLite|PostgreSQL"):
                await kept.flush()
        await outage.end()
        await written(kept)
        record = await kept.call(SID)
        assert record is not None
        assert record.turns == (GREETING, WISH, OFFER)
        assert (record.ended_by, record.duration_ms) == ("agent", 9000)
        assert caplog.text.count("calls are not recorded") == 1
        assert caplog.text.count("calls are recorded again: 0 facts were lost") == 1
        for secret in (CALLER, GREETING.text, "Booked"):
            assert secret not in caplog.text


async def test_what_waits_is_bounded_and_the_end_of_a_call_is_kept(
    outage: Outage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "MAX_DETAIL_BYTES", 20_000)
    async with Store.from_url(outage.url) as kept:
        kept.tell(started())
        await kept.flush()
        await outage.begin()
        for number in range(500):
            kept.tell(said(replace(WISH, item_id=f"item_{number}", start_ms=number, text="words " * 100)))
        kept.tell(ended())
        with pytest.raises(StoreError):
            await kept.flush()
        assert kept._writer.waiting < 50
        await outage.end()
        await written(kept)
        record = await kept.call(SID)
        assert record is not None
        assert record.ended_by == "agent"
        assert 0 < len(record.turns) < 50
        assert record.turns[-1].item_id == "item_499"
        assert "facts were lost" in caplog.text


async def test_starts_and_ends_are_bounded_as_well(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_CALL_ROWS", 10)
    async with Store.from_url(outage.url) as kept:
        await outage.begin()
        for number in range(50):
            kept.tell(started(f"CA{number:032x}"))
        assert len(kept._writer._calls) == 10
        await outage.end()
        await written(kept)
        assert {record.call_sid for record in await kept.calls()} == {f"CA{number:032x}" for number in range(40, 50)}


async def test_a_full_disk_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FIRST_RETRY_SECONDS", 0.02)
    async with Store.from_url(f"sqlite:///{tmp_path}/phoneagent.db") as kept:
        kept.tell(started())
        await kept.flush()
        full = True

        @sa.event.listens_for(kept._database.writing.sync_engine, "checkout")
        def limit(connection: Any, *_: Any) -> None:
            pages = 1 if full else 2**30  # 1 stands for what there is, and not a page more
            connection.cursor().execute(f"PRAGMA max_page_count={pages}")

        for number in range(200):
            kept.tell(said(replace(WISH, item_id=f"item_{number}", text="words " * 200)))
        kept.tell(ended())
        with pytest.raises(StoreError, match="full"):
            await kept.flush()
        full = False
        await kept.flush()
        record = await kept.call(SID)
        assert record is not None
        assert (record.ended_by, len(record.turns)) == ("agent", 200)


async def test_closing_while_the_database_is_away_ends_and_says_what_is_lost(
    outage: Outage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Store.from_url(outage.url)
    await outage.begin()
    kept.tell(started())
    async with asyncio.timeout(5):
        await kept.close()
    assert "2 facts of calls were not recorded" in caplog.text


async def test_closing_writes_what_waits(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
    async with Store.from_url(ready) as kept:
        assert len(await kept.calls()) == 1


async def test_a_hanging_database_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody answers, and nobody refuses either."""
    monkeypatch.setattr(database, "TRANSACTION_SECONDS", 0.2)
    lines: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda reader, writer: lines.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with Store.from_url(f"postgres://someone:s3cret@127.0.0.1:{port}/calls?sslmode=disable") as kept:
        kept.tell(started())
        with pytest.raises(StoreError, match="does not answer"):
            await kept.flush()
        monkeypatch.setattr(store, "CLOSE_SECONDS", 0.3)
    silent.close()
    for line in lines:
        line.close()
    assert "s3cret" not in caplog.text
