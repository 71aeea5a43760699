"""What is shown of a user's module that fails: the cause first, and their own lines only."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from pathlib import Path

import pytest

from phoneagent.cli.failures import AppFailed, warnings_told
from phoneagent.cli.target import Target

CODE = {
    "syntax": ("def f(:\n", "failing.py, line 1: SyntaxError: invalid syntax", ["  failing.py:1: def f(:"]),
    "a name": (
        "x = 1\n\nprnt(x)\n",
        "failing.py, line 3: NameError: name 'prnt' is not defined",
        ["  failing.py:3: prnt(x)"],
    ),
    "a module": (
        "import nowhere.deep\n",
        "failing.py, line 1: ModuleNotFoundError: No module named 'nowhere': install it, like `pip install nowhere`",
        ["  failing.py:1: import nowhere.deep"],
    ),
    "a library": (
        "import json\njson.loads('{')\n",
        "failing.py, line 2: json.decoder.JSONDecodeError: Expecting property name",
        ["  failing.py:2: json.loads('{')"],
    ),
    "a tool": (
        "from phoneagent import Agent\nagent = Agent(instructions='x', tools=[1])\n",
        "failing.py, line 2: ",
        ["  failing.py:2: agent = Agent(instructions='x', tools=[1])"],
    ),
    "an argument": (
        "from phoneagent import Agent\nagent = Agent(instruction='x')\n",
        "failing.py, line 2: TypeError: Agent.__init__() got an unexpected keyword argument 'instruction'",
        ["  failing.py:2: agent = Agent(instruction='x')"],
    ),
}


@pytest.mark.parametrize("name", CODE)
def test_the_cause_comes_first_and_then_the_line(folder: Path, name: str) -> None:
    code, cause, lines = CODE[name]
    failed = failure(folder, code)
    first, *rest = str(failed).splitlines()
    assert first.startswith(cause)
    assert rest == lines


def test_of_many_lines_the_first_and_the_last_are_shown(folder: Path) -> None:
    (folder / "failing_helper.py").write_text(
        "def a():\n    b()\ndef b():\n    c()\ndef c():\n    1 / 0\na()\n", "utf-8"
    )
    failed = failure(folder, "import failing_helper\n")
    sys.modules.pop("failing_helper", None)
    assert str(failed).splitlines() == [
        "failing_helper.py, line 6: ZeroDivisionError: division by zero",
        "  failing_helper.py:6: 1 / 0",
        "  failing.py:1: import failing_helper",
    ]


def test_a_circle_names_its_way_out(folder: Path) -> None:
    (folder / "failing_helper.py").write_text("from failing import value\n", encoding="utf-8")
    failed = failure(folder, "from failing_helper import other\nvalue = 1\n")
    assert "move what both modules need into a third one" in str(failed).splitlines()[0]


def test_words_that_may_hold_a_secret_are_left_out_of_the_summary(folder: Path) -> None:
    assert failure(folder, "raise OSError('sk-1')").summary == "it cannot be imported: OSError in failing.py, line 1"


def test_code_that_is_in_no_file_is_not_shown(folder: Path) -> None:
    failed = failure(folder, "x = compile('raise OSError(5)', '<made>', 'exec')\nexec(x)")
    assert str(failed).splitlines() == ["failing.py, line 2: OSError: 5", "  failing.py:2: exec(x)"]


def failure(folder: Path, code: str) -> AppFailed:
    (folder / "failing.py").write_text(code, encoding="utf-8")
    with pytest.raises(AppFailed) as raised:
        Target.find("failing.py").load()
    return raised.value


log = logging.getLogger("phoneagent.agent.tools")


def report(folder: Path, message: str) -> None:
    """Log an error that a function of the user's raised."""
    (folder / "tools.py").write_text("def book():\n    return {}['a table']\n", encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        import_module("tools").book()
    except KeyError as error:
        log.error(message, exc_info=error)
    finally:
        sys.modules.pop("tools", None)


@pytest.mark.parametrize("message", ["the tool failed", "the tool failed: KeyError: 'a table'"])
def test_a_warning_is_one_line_and_names_the_users_own(
    folder: Path, capsys: pytest.CaptureFixture[str], message: str
) -> None:
    told: list[str] = []
    with warnings_told(told.append):
        report(folder, message)
        log.warning("no table")
        log.info("a table")
    log.warning("too late")
    assert told == ["the tool failed: KeyError: 'a table' (tools.py, line 2)", "no table"]
    assert "Traceback" not in capsys.readouterr().err


def test_an_error_that_no_code_of_the_users_raised_has_no_place(folder: Path) -> None:
    told: list[str] = []
    with warnings_told(told.append):
        log.error("the answer was lost", exc_info=OSError("gone"))
    assert told == ["the answer was lost: OSError: gone"]


def test_at_the_level_debug_the_log_keeps_its_tracebacks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHONEAGENT_LOG_LEVEL", "debug")
    told: list[str] = []
    with warnings_told(told.append):
        report(folder, "the tool failed")
    assert told == []
