"""The doctor: checks of an installation, from the settings to the model.

Each check is a line of the report. A failed check says what to do. A check that needs another repair first is skipped,
and says so. Nothing here places a call: the webhook and the media socket are requested as Twilio requests them, and the
socket is closed before a call would start.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from phoneagent.agent.agent import Agent
from phoneagent.doctor.checks import Check, Status, failed, note, ok, skipped
from phoneagent.doctor.models import check_models
from phoneagent.doctor.receiver import check_receiver
from phoneagent.doctor.recording import check_recording
from phoneagent.doctor.telephone import check_app, check_insecure_app, check_twilio
from phoneagent.errors import ConfigurationError, StoreError
from phoneagent.model.endpoint import Endpoint
from phoneagent.settings import Settings
from phoneagent.store import Store
from phoneagent.store.database import Database

__all__ = ["Check", "Status", "examine", "settings_missing"]


def settings_missing(error: ConfigurationError) -> list[Check]:
    """Return the report for settings that cannot be read. Nothing else can be checked then."""
    found = [failed("settings", problem) for problem in error.problems]
    rest = ("Twilio", "clock", "number", "calling out", "webhook", "media socket", "model", "database")
    return [*found, *(skipped(name, "fix the settings first") for name in rest)]


async def examine(
    settings: Settings, *, endpoints: Sequence[Endpoint] = (), local: str | None = None, agent: Agent | None = None
) -> AsyncIterator[Check]:
    """Check everything, in the order of a call, and yield each check when it is done.

    `endpoints` are the endpoints in the app's code, in order; if there are none, the settings name one. `local` is an
    address where the app listens, like http://127.0.0.1:8000. The app is then checked there instead of at PUBLIC_URL.
    The model is asked for a session of `agent`, with its own voice, tools and transcription. Twilio's side of an
    insecure app is not checked, because it has none.
    """
    if settings.insecure:
        yield note("settings", "Twilio's are missing: the app is checked as `phoneagent serve --insecure` runs it")
        yield skipped("Twilio", "account, clock and number: set TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and PUBLIC_URL")
        found = await check_insecure_app(settings, local)
    else:
        yield ok("settings", "complete")
        async for check in check_twilio(settings):
            yield check
        found = await check_app(settings, local)
    for check in found:
        yield check
    async for check in check_models(settings, endpoints, agent):
        yield check
    yield await _check_database(settings)
    if (receiver := await check_receiver(settings)) is not None:
        yield receiver
    for check in await check_recording(settings, agent):
        yield check


async def _check_database(settings: Settings) -> Check:
    database = Database(settings.database_url.get_secret_value())
    if database.absent:
        if (problem := database.folder_problem()) is not None:
            return failed("database", problem)
        return ok("database", f"{database.name}, created at the first call")
    async with Store(database) as store:
        try:
            await store.calls(limit=1)
        except StoreError as error:
            return failed("database", str(error))
    return ok("database", database.name)
