"""The agent of the test of campaigns; `phoneagent serve` runs it in each process.

What a dead process has left behind is taken over after three seconds here, and not after a minute.
"""

from __future__ import annotations

from phoneagent import Agent, PhoneApp
from phoneagent.calls import campaigns, dialer
from phoneagent.store import outbound

outbound.LEASE_SECONDS = 3.0
dialer.POLL_SECONDS = 0.5
assert dialer.Dialer.__init__.__kwdefaults__ is not None
dialer.Dialer.__init__.__kwdefaults__["settle_seconds"] = 3.0
campaigns.IDLE_SECONDS = 0.5
campaigns.LOOK_SECONDS = 0.2

app = PhoneApp(Agent(instructions="You remind people of their visit."))
