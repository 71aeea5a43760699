"""The tests' own clock: it skips what is only waited for, and nothing in which something is done."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import aiosqlite
import pytest

pytestmark = pytest.mark.anyio
_really = time.monotonic


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


async def test_a_minute_is_over_at_once_and_timers_come_in_their_order() -> None:
    loop, begun, real = asyncio.get_running_loop(), time.monotonic(), _really()
    came: list[int] = []
    for seconds in (30, 10, 20):
        loop.call_later(seconds, came.append, seconds)
    await asyncio.sleep(60)
    assert came == [10, 20, 30]
    assert time.monotonic() - begun == pytest.approx(60, abs=1)
    assert loop.time() == time.monotonic()
    assert _really() - real < 30


async def test_what_others_do_is_not_skipped(tmp_path: Path) -> None:
    """A thread, a process and a database take time that cannot be skipped: no timer comes before they are done."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.sleep(31), 30)
    async with asyncio.timeout(30):
        await asyncio.to_thread(_compute)
    async with asyncio.timeout(30):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(0.1)")
        assert await process.wait() == 0
    async with asyncio.timeout(0.1), aiosqlite.connect(tmp_path / "some.db") as database:
        await database.create_function("compute", 0, _compute)
        assert await (await database.execute("SELECT compute()")).fetchone() == (1,)


def _compute() -> int:
    time.sleep(0.2)
    return 1
