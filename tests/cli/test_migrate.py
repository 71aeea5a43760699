"""`phoneagent migrate`: the revision it prints, on a new database, an old one, and one that cannot be migrated."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from phoneagent.cli.migrate import migrate
from phoneagent.errors import ConfigurationError, StoreError

Invoke = Callable[[], Result]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoke:
    """Runs the command in an empty folder, with no setting at all."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "RECORD_DAYS", "PHONEAGENT_ENV_FILE", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    app = typer.Typer()
    app.command()(migrate)
    return lambda: CliRunner().invoke(app, [])


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_it_may_be_run_again(invoke: Invoke, tmp_path: Path) -> None:
    for _ in range(2):
        result = invoke()
        assert result.exit_code == 0
        assert result.output == "SQLite in phoneagent.db is at revision 0017\n"
    assert {"calls", "turns"} <= tables(tmp_path / "phoneagent.db")


def test_the_database_is_the_one_of_the_settings(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "elsewhere.db"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{path}")
    assert invoke().output == f"SQLite in {path} is at revision 0017\n"
    assert not (tmp_path / "phoneagent.db").exists()


def test_a_file_that_is_no_database_stays_as_it_is(invoke: Invoke, tmp_path: Path) -> None:
    content = b"this is not a database" * 100
    (tmp_path / "phoneagent.db").write_bytes(content)
    error = invoke().exception
    assert isinstance(error, StoreError)
    assert "phoneagent.db" in str(error)
    assert (tmp_path / "phoneagent.db").read_bytes() == content


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        ("mysql://someone:s3cret@host/calls", ConfigurationError, "DATABASE_URL"),
        ("postgres://someone:s3cret@127.0.0.1:1/calls", StoreError, "PostgreSQL at 127.0.0.1:1/calls: "),
    ],
)
def test_a_database_out_of_reach_is_one_line_without_its_password(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, url: str, kind: type[Exception], words: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    error = invoke().exception
    assert isinstance(error, kind)
    assert words in str(error)
    assert "s3cret" not in str(error)
    assert "\n" not in str(error)
