"""The Twilio-speaking server of the simulator's tests, for commands that call one."""

from __future__ import annotations

from tests.sim.conftest import server as server
