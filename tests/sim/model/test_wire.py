from __future__ import annotations

from typing import Any

import pytest

from phoneagent.sim.model.wire import MAX_OUTBOX_EVENTS, Wire

pytestmark = pytest.mark.anyio


class Socket:
    """A connection whose client does not read."""

    def __init__(self) -> None:
        self.aborted = 0
        self.transport = self

    def abort(self) -> None:
        self.aborted += 1


async def test_a_client_that_does_not_read_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    socket: Any = Socket()
    wire = Wire(socket)

    for _ in range(MAX_OUTBOX_EVENTS):
        wire.put(b"{}")
    assert socket.aborted == 0
    wire.put(b"{}")

    assert socket.aborted == 1
    assert "reads too slowly" in caplog.text
