"""Listening in over a WebSocket: which are let in, what they are sent, and how they are let go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.websockets import WebSocket

from phoneagent.console import listen
from phoneagent.console.listen import FULL, MAX_LISTENERS, NO_CALL, SIGNED_OUT, SLOW, ListenIn
from tests.asgi import scope
from tests.console.test_api import TOKEN, app_with, with_token
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(skipping_time: object) -> object:
    return skipping_time


FRAME = b"\x00" + b"\x55" * 160


class Ear:
    """A listener of a call that has so many frames, and then ends, falls behind, or goes on."""

    def __init__(self, frames: int, then: str = "over") -> None:
        self.left = frames
        self.then = then

    @property
    def over(self) -> bool:
        return self.left <= 0 and self.then == "over"

    def frames(self) -> list[bytes] | None:
        self.left -= 1
        if self.left >= 0:
            return [FRAME]
        return None if self.then == "slow" else []


class Browser:
    """The other side of a WebSocket, which stays until it is told to leave."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self.blocked = False
        self._connected = False

    async def receive(self) -> dict[str, Any]:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        await self.left.wait()
        return {"type": "websocket.disconnect", "code": 1001}

    async def send(self, message: dict[str, Any]) -> None:
        if self.blocked and message["type"] == "websocket.send":
            await asyncio.Event().wait()
        self.sent.append(message)

    @property
    def audio(self) -> list[bytes]:
        return [each["bytes"] for each in self.sent if each["type"] == "websocket.send"]

    @property
    def closed(self) -> Any:
        return self.sent[-1].get("code") if self.sent[-1]["type"] == "websocket.close" else None

    def socket(self) -> WebSocket:
        return WebSocket(
            {**scope("websocket", "/calls/CA1/audio"), "path_params": {"sid": "CA1"}}, self.receive, self.send
        )


class Lines:
    """The calls: one, whose listeners are counted."""

    def __init__(self, ear: Ear) -> None:
        self.ear = ear
        self.listening = 0

    def __call__(self, call_sid: str) -> Any:
        return self._listen() if call_sid == "CA1" else None

    @contextmanager
    def _listen(self) -> Iterator[Ear]:
        self.listening += 1
        try:
            yield self.ear
        finally:
            self.listening -= 1


async def test_frames_are_sent_as_they_come_until_the_call_is_over() -> None:
    lines, browser = Lines(Ear(3)), Browser()
    await ListenIn(lines).run(browser.socket())
    assert browser.audio == [FRAME] * 3
    assert (browser.closed, lines.listening) == (1000, 0)


async def test_one_that_leaves_is_let_go() -> None:
    lines, browser = Lines(Ear(0, "on")), Browser()
    running = asyncio.create_task(ListenIn(lines).run(browser.socket()))
    await asyncio.sleep(1)
    assert lines.listening == 1
    browser.left.set()
    await running
    assert lines.listening == 0


async def test_one_that_falls_behind_or_takes_nothing_is_dropped() -> None:
    browser = Browser()
    await ListenIn(Lines(Ear(2, "slow"))).run(browser.socket())
    assert browser.closed == SLOW
    lines, stuck = Lines(Ear(9, "on")), Browser()
    stuck.blocked = True
    await ListenIn(lines).run(stuck.socket())
    assert (stuck.closed, stuck.audio, lines.listening) == (SLOW, [], 0)


async def test_one_whose_session_ends_hears_no_more() -> None:
    answers = iter([True, True, False])
    lines, browser = Lines(Ear(9, "on")), Browser()
    await ListenIn(lines, lambda websocket: next(answers)).run(browser.socket())
    assert (browser.audio, browser.closed, lines.listening) == ([FRAME] * 2, SIGNED_OUT, 0)


async def test_only_so_many_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines(Ear(0, "on"))
    room = ListenIn(lines)
    browsers = [Browser() for _ in range(MAX_LISTENERS + 1)]
    running = [asyncio.create_task(room.run(each.socket())) for each in browsers]
    await asyncio.sleep(1)
    assert [each.closed for each in browsers] == [None] * MAX_LISTENERS + [FULL]
    browsers[0].left.set()
    await asyncio.sleep(1)
    monkeypatch.setattr(listen, "MAX_ALL_LISTENERS", MAX_LISTENERS - 1)
    late = Browser()
    await room.run(late.socket())
    assert late.closed == FULL
    for each in browsers:
        each.left.set()
    await asyncio.gather(*running)
    assert room._listeners == {}


async def connect(app: Any, headers: dict[str, str]) -> list[dict[str, Any]]:
    browser = Browser()
    browser.left.set()
    async with asyncio.timeout(HANG_SECONDS):
        await app(scope("websocket", "/calls/CA1/audio", headers=headers), browser.receive, browser.send)
    return browser.sent


async def test_access_is_checked_before_a_socket_is_accepted() -> None:
    for app, headers in (
        (with_token(), {}),
        (with_token(), {"Authorization": "Bearer no"}),
        (app_with(), TOKEN),
        (app_with(insecure=True), {"origin": "https://evil.example"}),
        (app_with(insecure=True), {"host": "evil.example"}),
    ):
        (refused,) = await connect(app, headers)
        assert refused["type"] == "websocket.close"
    accepted, closed = await connect(with_token(), TOKEN)
    assert (accepted["type"], closed["code"]) == ("websocket.accept", NO_CALL)
    accepted, _ = await connect(app_with(insecure=True), {"origin": "http://127.0.0.1:8000"})
    assert accepted["type"] == "websocket.accept"
