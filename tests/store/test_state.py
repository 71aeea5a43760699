"""What users keep of a call: there for its next stream, gone with its record."""

from __future__ import annotations

import pytest

from phoneagent.store import Store, writer
from tests.store.conftest import SID, contents, ended, started, stores

pytestmark = pytest.mark.anyio
SECOND = started(stream_sid="MZ2", resumed=True)
SECRET = '{"code": "a secret of the caller"}'


async def state_of(kept: Store, sid: str = SID) -> str | None:
    state = (await kept.standing(sid)).state
    assert (await kept.so_far(sid)).state == state
    return state


@pytest.mark.parametrize("rows", [1, 200])
async def test_the_latest_state_is_there_for_the_next_stream(
    ready: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BATCH_ROWS", rows)
    sids = [SID, "CA" + "2" * 32]
    async with stores(ready) as (first, second):
        for sid in sids:
            first.tell(started(sid))
            first.keep_state(sid, "MZ1", "{}")
            first.keep_state(sid, "MZ1", f'{{"of": "{sid}"}}')
        await first.flush()
        assert [await state_of(second, sid) for sid in sids] == [f'{{"of": "{sid}"}}' for sid in sids]


async def test_a_call_of_which_nothing_is_kept_has_no_state(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.keep_state(SID, "MZ1", SECRET)  # of no call that is recorded
        assert await state_of(kept) is None
        kept.tell(started())
        assert await state_of(kept) is None


async def test_an_older_stream_has_no_say_any_more(ready: str) -> None:
    async with stores(ready) as (first, second):
        first.tell(started())
        first.keep_state(SID, "MZ1", '{"at": 1}')
        await first.flush()
        second.tell(SECOND)
        await second.flush()
        first.keep_state(SID, "MZ1", '{"at": 2}')
        await first.flush()
        assert await state_of(second) == '{"at": 1}'
        second.keep_state(SID, "MZ2", '{"at": 3}')
        assert await state_of(second) == '{"at": 3}'


async def test_the_state_is_no_part_of_the_record(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        kept.keep_state(SID, "MZ1", SECRET)
        record = await kept.call(SID)
        assert record is not None
        assert "secret" not in f"{record!r} {record.as_dict()} {await kept.standing(SID)!r} {await kept.so_far(SID)!r}"


async def test_the_state_goes_when_the_call_is_forgotten(ready: str) -> None:
    async with Store.from_url(ready) as kept:
        kept.tell(started())
        kept.keep_state(SID, "MZ1", SECRET)
        assert await kept.forget(SID) == 1
        kept.tell(SECOND)
        kept.keep_state(SID, "MZ2", SECRET)
        assert await state_of(kept) is None


@pytest.mark.parametrize(("ended_by", "stays"), [("agent", False), ("line", True)])
async def test_with_record_days_0_the_state_goes_when_the_call_ends(ready: str, ended_by: str, stays: bool) -> None:
    async with Store.from_url(ready, record_days=0) as kept:
        kept.tell(started())
        kept.keep_state(SID, "MZ1", SECRET)
        kept.tell(ended(ended_by=ended_by))
        assert (await state_of(kept) == SECRET) is stays
    if not stays and kept._database.path is not None:
        assert not any(b"a secret" in content for content in contents(kept._database.path.parent))
