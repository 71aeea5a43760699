"""The doctor's checks for the setup page of an app that `phoneagent serve` runs."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from phoneagent.agent.agent import Agent
from phoneagent.server import PhoneApp

if TYPE_CHECKING:
    from phoneagent.doctor import Check


def examining(app: PhoneApp) -> Callable[[], AsyncGenerator[Check]]:
    """Return a function that runs the checks of an app and yields each when it is done.

    An insecure app is checked at its own address, which `serve` has put into its settings.
    """

    async def examine() -> AsyncGenerator[Check]:
        # It imports half of the simulators, which takes too long for the event loop of live calls.
        doctor: Any = await asyncio.to_thread(importlib.import_module, "phoneagent.doctor")
        checks = doctor.examine(
            app.settings,
            endpoints=app.endpoints,
            local=app.settings.public_url if app.settings.insecure else None,
            agent=app.agent if isinstance(app.agent, Agent) else None,
        )
        async with aclosing(checks):
            async for check in checks:
                yield check

    return examine
