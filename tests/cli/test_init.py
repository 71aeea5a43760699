"""`phoneagent init`: what it writes works as it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import pytest
import typer
from typer.testing import CliRunner

from phoneagent.cli.init import EXTRAS, FILES, init, write
from phoneagent.errors import ConfigurationError, DefinitionError
from phoneagent.settings import load
from tests.patience import HANG_SECONDS
from tests.ports import free_port

SETTINGS = {
    "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
    "TWILIO_AUTH_TOKEN": "a-token-for-tests",
    "PUBLIC_URL": "https://agent.example",
    "OPENAI_API_KEY": "sk-none",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write(tmp_path / "shop")
    return tmp_path / "shop"


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )


def test_it_says_what_it_wrote_and_what_comes_next(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(init)
    folder = tmp_path / "new" / "shop"
    result = CliRunner().invoke(app, [str(folder)])
    assert result.exit_code == 0
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        *FILES,
        *EXTRAS,
    }
    assert all(str(folder / name) in result.output for name in FILES)
    assert "phoneagent demo main.py" in result.output
    assert f", in {folder}" in result.output


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(DefinitionError, match=re.escape(name)):
        write(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", EXTRAS)
def test_what_a_project_may_have_already_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    assert set(write(tmp_path)) == {*FILES, *EXTRAS} - {name}
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(("lines", "told"), [("build/\n", True), ("/.env\n", False), (".env*\n", False), (None, False)])
def test_a_gitignore_that_would_keep_secrets_is_told(tmp_path: Path, lines: str | None, told: bool) -> None:
    if lines is not None:
        (tmp_path / ".gitignore").write_text(lines)
    app = typer.Typer()
    app.command()(init)
    output = CliRunner().invoke(app, [str(tmp_path)]).output
    assert (".gitignore lacks .env, which will hold secrets: add .env, phoneagent.db*, recordings/\n" in output) == told


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DefinitionError, match="cannot be written to"):
        write(tmp_path / "file")


def test_its_test_passes(project: Path) -> None:
    done = command("pytest", "-q", "-p", "no:cacheprovider", "-W", "error", folder=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_it_is_well_written(project: Path) -> None:
    checked = command("ruff", "check", "--isolated", "--line-length", "120", ".", folder=project)
    assert checked.returncode == 0, checked.stdout
    formatted = command("ruff", "format", "--isolated", "--line-length", "120", "--check", ".", folder=project)
    assert formatted.returncode == 0, formatted.stdout


def test_the_example_as_it_is_counts_as_nothing_set(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*SETTINGS, "TWILIO_PHONE_NUMBER", "REALTIME_URL"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", str(project / ".env.example"))
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert [problem.split(": ")[0] for problem in raised.value.problems] == [f"{name} is empty" for name in SETTINGS]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def server(project: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, **SETTINGS, "PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "phoneagent", "serve", "--host", "127.0.0.1"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        yield process
        process.terminate()


def test_serve_finds_it(server: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + HANG_SECONDS
    while True:
        try:
            with closing(urlopen(f"http://127.0.0.1:{port}/healthz", timeout=HANG_SECONDS)) as answer:
                assert answer.status == 200
                return
        except OSError:
            assert server.poll() is None, server.stdout and server.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
