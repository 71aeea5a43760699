"""`phoneagent migrate`: brings the tables of the call records up to date."""

from __future__ import annotations

import asyncio

import typer

from phoneagent import settings
from phoneagent.store.database import Database


def migrate() -> None:
    """Bring the database at DATABASE_URL up to date. Safe to run at any time, even several times at once."""
    database = Database(settings.load_records().database_url.get_secret_value())

    async def run() -> str:
        try:
            return await database.upgrade()
        finally:
            await database.close()

    revision = asyncio.run(run())
    typer.echo(f"{database.name} is at revision {revision}")
