"""Clusters and callers for the tests, and what they measured, told at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phoneagent.sim import Model
from phoneagent.sim.twilio import stream
from phoneagent.store import Store, database, engines
from tests.patience import HANG_SECONDS
from tests.resilience.callers import make_model
from tests.resilience.cluster import Cluster
from tests.store.conftest import new_schema, upgrade

MEASURED = "measured"
"""The name under which a test's report carries what was measured, also from another process to the summary."""


@pytest.fixture(autouse=True)
def patient_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on a test's own transactions that only one that hangs reaches: this process plays fifty calls as well."""
    for module in (database, engines):
        monkeypatch.setattr(module, "TRANSACTION_SECONDS", HANG_SECONDS)


@pytest.fixture(autouse=True)
def patient_phones(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that callers say is sent, however late this process is with it."""
    monkeypatch.setattr(stream, "CONGESTED_SECONDS", HANG_SECONDS)


@dataclass
class World:
    """Everything around a call: the processes, their router, the model, and the records."""

    cluster: Cluster
    model: Model
    store: Store


Worlds = Callable[..., AbstractAsyncContextManager[World]]


def _worlds(folder: Path, database_url: str) -> Worlds:
    @asynccontextmanager
    async def make(**options: Any) -> AsyncIterator[World]:
        async with (
            make_model() as model,
            Cluster(folder, database_url=database_url, model_url=model.url, **options) as cluster,
            Store.from_url(database_url) as store,
        ):
            yield World(cluster, model, store)

    return make


@pytest.fixture
def world(tmp_path: Path) -> Worlds:
    """Make a world: `async with world() as w`; options are the cluster's. The processes set their SQLite up."""
    return _worlds(tmp_path, f"sqlite:///{tmp_path}/phoneagent.db")


@pytest.fixture(params=["sqlite", "postgresql"])
async def both(request: pytest.FixtureRequest, tmp_path: Path, world: Worlds) -> AsyncIterator[Worlds]:
    """The same on each of the databases."""
    if request.param == "sqlite":
        yield world
        return
    async with new_schema() as url:
        await upgrade(url)
        yield _worlds(tmp_path, url)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Note what was measured: it is told at the end of the run, whether the test passed or not."""
    name = request.node.name
    return lambda text: request.node.user_properties.append((MEASURED, f"{name}\n{text}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    texts = [text for report in reports for key, text in report.user_properties if key == MEASURED]
    if texts:
        terminalreporter.section("how callers got their agent back (least / median / most)")
        for text in sorted(texts):
            terminalreporter.write_line(text)
