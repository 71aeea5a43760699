from __future__ import annotations

import importlib
import importlib.util
import json

import pytest
import typer
from typer.testing import CliRunner

from phoneagent.demo.report import BargeIn, Latency, Report, Turn
from phoneagent.demo.run import Outcome
from phoneagent.demo.serving import ServerFailed
from phoneagent.demo.stories import RESTAURANT, VISITOR

cli = importlib.import_module("phoneagent.cli.demo")  # the package has the function under this name

GOOD = Report(
    "CA1",
    "agent",
    31_000,
    [Turn("agent", "Hello!", "Hello!", 0, 900, 900, 900, interrupted=False)],
    [BargeIn("item", 5290, 5300, 98)],
    latency_ms=Latency(120, 600, 700, 1.2, 1.4),
)


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    """Runs the command with `demonstrate` replaced: it returns, or raises, what it is given."""
    app = typer.Typer()
    app.command()(cli.demo)
    seen = []

    def run(result, *arguments):
        async def demonstrate(target, story, senses, out, console):
            seen[:] = [target, story, senses, out]
            if isinstance(result, BaseException):
                raise result
            return result

        monkeypatch.setattr(cli, "demonstrate", demonstrate)
        monkeypatch.chdir(tmp_path)
        return CliRunner().invoke(app, list(arguments)), seen

    return run


def test_a_good_call_is_told_and_written(invoke, tmp_path):
    result, (target, story, _, out) = invoke(Outcome(GOOD), "--out", "here")
    assert result.exit_code == 0
    assert (target, story, str(out)) == ("phoneagent.demo.restaurant:app", RESTAURANT, "here")
    assert json.loads((tmp_path / "here" / "report.json").read_text())["ended_by"] == "agent"
    for words in ("31.0 s", "ended by agent", "5290 ms", "98 ms", "1.2 ms", "no protocol rule broken", "call.wav"):
        assert words in result.stdout


def test_another_app_gets_the_visitor(invoke, monkeypatch):
    monkeypatch.setattr(cli.Target, "load", lambda self: None)  # it would only see that it can be loaded
    result, (target, story, *_) = invoke(Outcome(GOOD), "main:app")
    assert result.exit_code == 0
    assert (target, story) == ("main:app", VISITOR)


def test_the_report_goes_where_it_is_wanted(invoke, tmp_path):
    result, _ = invoke(Outcome(GOOD), "--report", "deep/report.json")
    assert result.exit_code == 0
    assert (tmp_path / "deep" / "report.json").is_file()
    assert not (tmp_path / "demo-call" / "report.json").exists()


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(Report("CA1", "agent", 1, violations=["phone: 31951 nonsense"])), "31951 nonsense"),
        (Outcome(Report("CA1", "line", 1)), "ended by line"),
        (Outcome(GOOD, "the call ended before"), "the call ended before"),
    ],
)
def test_a_bad_call_is_told_and_fails(invoke, outcome, words):
    result, _ = invoke(outcome)
    assert result.exit_code == 1
    assert words in result.stdout


def test_an_app_that_does_not_come_up_shows_its_log(invoke):
    result, _ = invoke(ServerFailed("x ended with status 2", "the [last] line"))
    assert result.exit_code == 1
    assert "ended with status 2" in result.stdout
    assert "the [last] line" in result.stdout


def test_breaking_off(invoke):
    result, _ = invoke(KeyboardInterrupt())
    assert result.exit_code == 130


def test_a_folder_that_cannot_be_made(invoke, tmp_path):
    (tmp_path / "file").write_text("")
    result, _ = invoke(Outcome(GOOD), "--out", "file/in")
    assert result.exit_code == 1
    assert "--out" in result.stdout


@pytest.mark.parametrize("option", ["--scripted", "--no-speech"])
def test_scripted_hearing_is_told(invoke, option):
    result, (_, _, senses, _) = invoke(Outcome(GOOD), option)
    assert senses.ear is None
    assert "hearing is scripted" in result.stdout


def test_a_base_installation_is_scripted_and_says_how_to_hear(invoke, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result, (_, _, senses, _) = invoke(Outcome(GOOD))
    assert senses.ear is None
    assert "phoneagent[demo]" in result.stdout
