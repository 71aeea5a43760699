"""The front desk with an outcome, where another process takes a step after a call again soon."""

from __future__ import annotations

from dataclasses import replace

from pydantic import BaseModel

from phoneagent import Agent, PhoneApp
from phoneagent.store import afterwards
from tests.resilience import front_desk


class Visit(BaseModel):
    """What the caller wanted."""

    wish: str
    pleased: bool


afterwards.LEASE_SECONDS = 5.0
agent = front_desk.app.agent
assert isinstance(agent, Agent)
app = PhoneApp(replace(agent, outcome=Visit))
