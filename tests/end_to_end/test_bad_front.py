"""What is wrong before a call begins, or beside it: requests that come again, databases that are none."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from phoneagent import Agent, CallEnded, CallStarted
from phoneagent.store import Store
from tests.end_to_end.by_hand import CALL_SID, after, dial, open_stream, post, start
from tests.end_to_end.conftest import PUBLIC_URL, Worlds

pytestmark = pytest.mark.anyio
AGENT = Agent(instructions="x", greeting="Hello!")
WHO = {"From": "+15550100001", "To": "+15550100002", "Direction": "inbound"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.from_url(f"sqlite:///{tmp_path}/calls.db") as kept:
        yield kept


# --- the same again ---


async def test_webhooks_that_are_replayed_change_nothing_of_a_live_call(world: Worlds, store: Store) -> None:
    async with world(AGENT, store=store) as w:
        twiml = await post(w, "/twilio/voice", CALL_SID, CallStatus="ringing", **WHO)
        socket = await open_stream(w, twiml)
        await w.until(lambda: w.model.sessions and w.model.sessions[0].said)
        for _ in range(3):
            assert "<Connect" in await post(w, "/twilio/voice", CALL_SID, CallStatus="ringing", **WHO)
            assert "<Connect" in await after(w, CALL_SID)
            await post(w, "/twilio/status", CALL_SID, CallStatus="in-progress", StreamEvent="stream-started")
        assert list(w.app.calls) == [CALL_SID]
        assert len(w.model.sessions) == len(w.of(CallStarted)) == 1
        await socket.close()
        await w.app._parts.calls.forget(CALL_SID)


async def test_a_call_that_is_over_stays_over_whatever_is_replayed(world: Worlds, store: Store) -> None:
    async with world(AGENT, store=store) as w:
        async with w.phone().dial() as line:
            await line.wait_for_agent(ms=10)
        await w.until(lambda: w.of(CallEnded))
        before = await store.call(line.call_sid)
        assert before is not None
        for _ in range(2):
            await post(w, "/twilio/status", line.call_sid, CallStatus="completed")
            assert "<Response />" in await after(w, line.call_sid, status="completed")
            assert "<Hangup" in await after(w, line.call_sid)
        assert await store.call(line.call_sid) == before
        assert len(w.of(CallStarted)) == 1


@pytest.mark.parametrize("resumes", [False, True])
async def test_a_token_is_good_once_in_all_processes(world: Worlds, store: Store, resumes: bool) -> None:
    other = Store.from_url(store._database.url)
    async with world(AGENT, store=store) as here, world(AGENT, store=other) as there:
        url = here.app._parts.verifier.media_url("/twilio/media/", CALL_SID, resumes=resumes)
        path = url.removeprefix(PUBLIC_URL.replace("https", "wss"))
        socket = await dial(here, path)
        with pytest.raises(InvalidStatus):
            await dial(there, path)
        await socket.send(start(CALL_SID))
        await here.until(lambda: here.app.calls)
        assert not there.app.calls
        await socket.close()


# --- a database that is none ---


def newer(folder: Path) -> str:
    """A file that a later release has migrated, as after a roll-back."""
    with closing(sqlite3.connect(folder / "calls.db")) as file, file:
        file.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        file.execute("INSERT INTO alembic_version VALUES ('9999')")
    return f"sqlite:///{folder}/calls.db"


@pytest.mark.parametrize("kind", ["nobody listens", "no host", "no folder", "no database", "newer"])
async def test_a_database_that_cannot_be_used_costs_records_and_no_call(
    world: Worlds, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "text").write_text("This is a letter to a friend, and not a database at all. " * 50)
    url = {
        "nobody listens": "postgresql://user:s3cret@127.0.0.1:1/calls",
        "no host": "postgresql://user:s3cret@a..b/calls",
        "no folder": f"sqlite:///{tmp_path}/none/calls.db",
        "no database": f"sqlite:///{tmp_path}/text",
        "newer": newer(tmp_path),
    }[kind]
    async with world(AGENT, store=Store.from_url(url)) as w:
        async with w.phone().dial() as line, w.phone().dial() as other:
            await asyncio.gather(line.wait_for_agent(ms=200), other.wait_for_agent(ms=200))
            w.app.hand_over_now(line.call_sid, "test")  # and even goes on, by what this process knows
            await w.until(lambda: len(w.of(CallStarted)) == 3)
            assert w.of(CallStarted)[2].call_sid == line.call_sid
        await w.until(lambda: len(w.of(CallEnded)) == 2)
        assert {event.ended_by for event in w.of(CallEnded)} == {"caller"}
    told = [message for message in caplog.messages if message.startswith("calls are not recorded: ")]
    assert len(told) == 1
    assert "\n" not in told[0]
    assert "s3cret" not in caplog.text
