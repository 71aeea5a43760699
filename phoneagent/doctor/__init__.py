"""What stands between a caller and the agent: everything from the settings to the model, looked at one by one.

Each check is a line of the report. What is wrong says what to do; what cannot be looked at before something else is
repaired says that. Nothing here places a call: the webhook and the media socket are asked as Twilio asks them, and the
socket is closed before a call would start.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from phoneagent.doctor.checks import Check, Status, failed, ok, skipped
from phoneagent.doctor.models import check_models
from phoneagent.doctor.telephone import check_app, check_twilio
from phoneagent.errors import ConfigurationError, StoreError
from phoneagent.model.connection import Endpoint
from phoneagent.settings import Settings
from phoneagent.store import Store
from phoneagent.store.database import Database

__all__ = ["Check", "Status", "examine", "settings_missing"]


def settings_missing(error: ConfigurationError) -> list[Check]:
    """Return the report when the settings cannot be read: nothing else can be looked at."""
    found = [failed("settings", problem) for problem in error.problems]
    rest = ("Twilio", "clock", "number", "webhook", "media socket", "model", "database")
    return [*found, *(skipped(name, "repair the settings first") for name in rest)]


async def examine(
    settings: Settings, *, endpoints: Sequence[Endpoint] = (), local: str | None = None
) -> AsyncIterator[Check]:
    """Look at everything, in the order of a call; each check is yielded when it is done.

    `endpoints` are those that code brings, in order; without any, the settings name one. `local` is where the app
    really listens (http://127.0.0.1:8000), to ask it there instead of at PUBLIC_URL.
    """
    yield ok("settings", "complete")
    async for check in check_twilio(settings):
        yield check
    for check in await check_app(settings, local):
        yield check
    async for check in check_models(settings, endpoints):
        yield check
    yield await _check_database(settings)


async def _check_database(settings: Settings) -> Check:
    database = Database(settings.database_url.get_secret_value())
    if database.path is not None and not database.path.exists():
        return ok("database", f"{database.name}, made at the first call")
    async with Store(database) as store:
        try:
            await store.calls(limit=1)
        except StoreError as error:
            return failed("database", str(error))
    return ok("database", database.name)
