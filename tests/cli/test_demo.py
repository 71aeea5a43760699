from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
from functools import partial
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from phoneagent.demo.report import BargeIn, Latency, Report, Turn
from phoneagent.demo.run import Outcome
from phoneagent.demo.serving import ServerFailed
from phoneagent.demo.stories import RESTAURANT
from tests.sim.model.chat_server import ChatServer, chat_server, said

pytestmark = pytest.mark.anyio

cli = importlib.import_module("phoneagent.cli.demo")  # the package has the function under this name


class Terminal:
    def isatty(self):
        return True


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


AGENT = """
from phoneagent import Agent, PhoneApp, hang_up, tool

@tool
def book_table(guests: int) -> str:
    \"\"\"Book a table.\"\"\"
    return "Booked."

app = PhoneApp(Agent(name="host", instructions="Be brief.", tools=[book_table, hang_up]))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "agent_of_a_demo.py").write_text(AGENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "agent_of_a_demo:app"


def test_the_users_own_agent_gets_a_script_of_its_tools_and_that_is_said(invoke, own):
    result, (target, story, senses, _) = invoke(Outcome(GOOD), own)
    assert (result.exit_code, target) == (0, own)
    assert [call.name for turn in story.script().turns for call in turn.calls] == ["book_table", "hang_up"]
    assert senses.ear is None
    assert "The model is scripted: it reads no instructions" in result.stdout


def test_an_app_that_is_none_is_told_before_anything_else(invoke):
    result, seen = invoke(Outcome(GOOD), "no_such_module:app")
    assert "no module named 'no_such_module'" in str(result.exception)
    assert (result.stdout, seen) == ("", [])


def test_a_script_of_ones_own(invoke, own, tmp_path):
    (tmp_path / "call.toml").write_text('[[turn]]\ncaller = "Hello?"\nsay = "Hi."\n')
    result, (_, story, _, _) = invoke(Outcome(GOOD), own, "--script", "call.toml")
    assert result.exit_code == 0
    assert [turn.caller for turn in story.script().turns] == ["Hello?"]
    assert story.interrupts_after_ms is None


async def test_with_a_brain_nothing_is_scripted_but_the_caller(invoke, own):
    async with chat_server(ChatServer(said("Hi"))) as server:
        run = partial(invoke, Outcome(GOOD), own, "--scripted", "--brain", server.url)
        result, (_, story, senses, _) = await asyncio.to_thread(run)
    assert result.exit_code == 0
    assert str(senses.brain).startswith("tiny at 127.0.0.1:")
    assert story.interrupts_after_ms == cli.BRAIN_INTERRUPTED_MS
    assert "thinks with tiny" in result.stdout
    assert "reads the caller's lines" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("report", "problem"),
    [("folder", "Is a directory"), ("file/in.json", "File exists"), ("file/in/r", "Not a directory")],
)
def test_a_report_that_cannot_be_written_is_told_before_the_call(invoke, tmp_path, report, problem):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    result, seen = invoke(Outcome(GOOD), "--report", report)
    assert (result.exit_code, result.stdout, seen) == (1, "", [])
    assert result.stderr.startswith(f"phoneagent: --report {report} cannot be written ({problem}")
    assert result.stderr.endswith("): name another file\n")


def test_what_an_earlier_call_left_is_deleted(invoke, tmp_path):
    names = ("call.wav", "timeline.svg", "transcript.txt", "report.json")
    for name in (*names, "notes.txt"):
        (tmp_path / name).write_text("of an earlier call")
    invoke(ServerFailed("x ended with status 2", ""), "--out", ".")
    assert {each.name for each in tmp_path.iterdir()} == {"notes.txt"}


def test_a_report_of_ones_own_stays_until_there_is_a_new_one(invoke, tmp_path):
    (tmp_path / "old.json").write_text("old")
    for name in ("old.json", "new.json"):
        invoke(KeyboardInterrupt(), "--report", name)
    assert (tmp_path / "old.json").read_text() == "old"
    assert not (tmp_path / "new.json").exists()


def test_what_is_no_fault_of_the_folder(invoke):
    result, _ = invoke(OSError(24, "Too many open files"))
    assert (result.exit_code, result.stderr) == (
        1,
        "phoneagent: the call failed ([Errno 24] Too many open files): try it again\n",
    )
    result, _ = invoke(OSError(28, "No space left on device"))
    assert "demo-call cannot be written to (No space left on device): name another folder with --out" in result.stderr


def test_breaking_off_at_the_question_is_a_no(invoke, monkeypatch):
    def confirm(*_, **__):
        raise typer.Abort

    asked = []
    monkeypatch.setattr(cli, "players", lambda: asked.append(1) or ["aplay"])
    monkeypatch.setattr(cli, "sys", SimpleNamespace(stdin=Terminal(), stdout=Terminal()))
    monkeypatch.setattr(cli.typer, "confirm", confirm)
    monkeypatch.setattr(cli, "play", lambda *_: pytest.fail("played"))
    result, _ = invoke(Outcome(GOOD))
    assert (result.exit_code, asked) == (0, [1])


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
        (Outcome(GOOD, "the call\x1b[2J ended"), "the call [2J ended"),
    ],
)
def test_a_bad_call_is_told_and_fails(invoke, outcome, words):
    result, _ = invoke(outcome)
    assert result.exit_code == 1
    assert words in result.stdout


def test_an_app_that_does_not_come_up_shows_its_log(invoke):
    result, _ = invoke(ServerFailed("x ended with status 2", "the [last] line"))
    assert result.exit_code == 1
    assert result.stderr == "phoneagent: x ended with status 2\n"
    assert "the [last] line" in result.stdout


def test_breaking_off(invoke):
    result, _ = invoke(KeyboardInterrupt())
    assert result.exit_code == 130


def test_a_folder_that_cannot_be_made(invoke, tmp_path):
    (tmp_path / "file").write_text("")
    result, _ = invoke(Outcome(GOOD), "--out", "file/in")
    assert result.exit_code == 1
    assert "cannot be written to (Not a directory): name another folder with --out" in result.stderr
    result, _ = invoke(Outcome(GOOD), "--out", "file")
    assert result.stderr == "phoneagent: file exists and is not a folder: name another folder with --out\n"


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


def test_the_call_is_played_and_its_picture_opened_if_that_is_wanted(invoke, monkeypatch, tmp_path):
    played, opened = [], []
    monkeypatch.setattr(cli, "play", lambda file, seconds: played.append((str(file), seconds)))
    monkeypatch.setattr(cli, "open_picture", lambda file: opened.append(str(file)) or "no browser opens here")
    result, _ = invoke(Outcome(GOOD), "--out", "here", "--play", "--open")
    assert (played, opened) == ([("here/call.wav", 31.0)], ["here/timeline.svg"])
    assert "no browser opens here" in result.stdout
    invoke(Outcome(GOOD))
    assert len(played) == 1, "without a terminal nothing is asked"
