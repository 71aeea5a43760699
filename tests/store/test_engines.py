"""The engines of databases: their addresses, their drivers, and a file that is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from phoneagent.errors import ConfigurationError
from phoneagent.store import Store, engines
from phoneagent.store.database import Database
from tests.store.conftest import started

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "bad", ["", "mysql://host/db", "sqlite://", "sqlite:///:memory:", "phoneagent.db", "postgres://host:x/db"]
)
def test_a_url_of_no_known_database_is_refused(bad: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL is malformed"):
        Store.from_url(bad)


def test_a_password_is_never_shown() -> None:
    kept = Store.from_url("postgres://someone:s3cret@db.example:5433/calls?sslmode=require")
    assert repr(kept) == "<Store PostgreSQL at db.example:5433/calls>"


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"install phoneagent\[postgres\]"):
        Store.from_url("postgres://db.example/calls")


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:///a.db", "a.db"), ("sqlite:////a/b.db", "/a/b.db"), ("sqlite+aiosqlite:///a.db", "a.db")],
)
def test_the_file_of_a_sqlite_url(url: str, path: str) -> None:
    assert Database(url).path == Path(path)


async def test_a_reader_sees_a_file_that_replaced_another(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    for path, count in ((ours, 1), (theirs, 2)):
        async with Store.from_url(f"sqlite:///{path}") as kept:
            for number in range(count):
                kept.tell(started(f"CA{number:032x}"))
    async with Store.from_url(f"sqlite:///{ours}") as kept:
        assert len(await kept.calls()) == 1
        theirs.replace(ours)
        assert len(await kept.calls()) == 2
