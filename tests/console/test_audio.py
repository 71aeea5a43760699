from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from phoneagent import Agent, PhoneApp, Settings
from phoneagent.console import audio as module
from phoneagent.console import streaming
from phoneagent.console.audio import byte_range
from phoneagent.store.audio_places import Folder
from phoneagent.store.recordings import CHUNK_SAMPLES, Recordings
from tests.asgi import request, scope
from tests.console.test_api import ACCOUNT, TOKEN
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
SID = "CA" + "0" * 32
BEGAN = datetime.now(UTC).replace(microsecond=250_000)
PATH = f"/calls/{SID}/audio.wav"


def app_with(folder: Path | None) -> PhoneApp:
    given: dict[str, Any] = {**ACCOUNT, "public_url": "https://agent.example", "realtime_url": "ws://127.0.0.1:1/?m=m"}
    place = None if folder is None else SecretStr(str(folder))
    return PhoneApp(
        Agent(instructions="x"), settings=Settings(**given, record_audio=place, api_token=SecretStr("let-me-in"))
    )


@pytest.fixture
def recorded(tmp_path: Path) -> PhoneApp:
    """An app with a recording of ten seconds."""
    Recordings(str(tmp_path)).begin(SID, "MZ1", BEGAN).append(b"\x80\xff" * 80_000)
    return app_with(tmp_path)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, (0, 100)),
        ("bytes=0-", (0, 100)),
        ("bytes=0-9", (0, 10)),
        ("bytes=90-200", (90, 100)),
        ("bytes=99-", (99, 100)),
        ("bytes=100-", None),
        ("bytes=5-5", (5, 6)),
        ("bytes=-10", (90, 100)),
        ("bytes=-200", (0, 100)),
        ("bytes=-0", None),
        ("bytes=-", (0, 100)),
        ("bytes=9-5", (0, 100)),
        ("bytes=0-1,5-6", (0, 100)),
        ("pages=1-2", (0, 100)),
        ("bytes=٣-", (0, 100)),
        ("bytes=" + "9" * 15 + "-", None),
        ("bytes=" + "9" * 5000 + "-", (0, 100)),
    ],
)
def test_ranges(header: str | None, wanted: tuple[int, int] | None) -> None:
    assert byte_range(header, 100) == wanted


async def test_where_nothing_is_recorded_there_is_no_audio(tmp_path: Path, recorded: PhoneApp) -> None:
    answer = await request(app_with(None), "GET", PATH, headers=TOKEN)
    assert (answer.status, "set RECORD_AUDIO" in answer.text) == (404, True)
    for sid in ("CA" + "1" * 32, "..", "%2e%2e", "x" * 3000):
        assert (await request(recorded, "GET", f"/calls/{sid}/audio.wav", headers=TOKEN)).status == 404


async def test_a_part_is_sent_with_the_moment_at_which_the_recording_began(recorded: PhoneApp) -> None:
    messages: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        messages.append(message)

    asked = scope("http", PATH, headers={**TOKEN, "Range": "bytes=0-3"}) | {"method": "GET"}
    async with asyncio.timeout(HANG_SECONDS):
        await recorded(asked, receive, send)
    assert (messages[0]["status"], messages[1]["body"]) == (206, b"RIFF")
    began = (b"recording-started-at", BEGAN.isoformat(timespec="milliseconds").encode())
    assert began in messages[0]["headers"]


async def test_it_needs_the_token(recorded: PhoneApp) -> None:
    assert (await request(recorded, "GET", PATH)).status == 401
    assert (await request(recorded, "POST", PATH, headers=TOKEN)).status == 405


async def test_a_place_that_does_not_answer_is_not_found_missing(
    recorded: PhoneApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Folder, "list", fail)
    answer = await request(recorded, "GET", PATH, headers=TOKEN)
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")


async def sent(app: PhoneApp, *, reads: bool = True) -> tuple[int, int]:
    """Return the status of an answer, and how many bytes came. A reader that does not read gets one chunk."""
    size, chunks, status = 0, 0, 0
    never = asyncio.Event()

    async def receive() -> Any:
        await never.wait()

    async def send(message: Any) -> None:
        nonlocal size, status, chunks
        status = message.get("status", status)
        size += len(message.get("body", b""))
        chunks += 1
        if chunks == 2 and not reads:
            await never.wait()

    await app(scope("http", PATH, headers=TOKEN) | {"method": "GET"}, receive, send)
    return status, size


async def test_not_too_many_are_sent_at_once_and_none_forever(
    recorded: PhoneApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SENT_AT_ONCE", 2)
    monkeypatch.setattr(streaming, "SEND_SECONDS", 0.3)
    slow = [asyncio.create_task(sent(recorded, reads=False)) for _ in range(2)]
    console = recorded._parts.console
    assert console is not None
    async with asyncio.timeout(HANG_SECONDS):
        while len(console._audio._open) < 2:
            await asyncio.sleep(0.01)
    assert (await sent(recorded))[0] == 503
    assert {each[0] for each in await asyncio.gather(*slow)} == {200}
    assert console._audio._open == set()
    assert await sent(recorded) == (200, 44 + 4 * 80_000)
    assert CHUNK_SAMPLES < 80_000


async def test_a_place_that_does_not_answer_is_waited_for_a_while(
    recorded: PhoneApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(module, "FIND_SECONDS", 0.05)
    monkeypatch.setattr(Recordings, "find", lambda *arguments: answers.wait(10))
    refused = await request(recorded, "GET", PATH, headers=TOKEN)
    answers.set()
    assert refused.status == 503
    assert "did not answer within 0.05 s" in refused.text
