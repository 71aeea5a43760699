"""The memory: exact sums, and facts that come back in the next call of the same caller."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from phoneagent import Call
from tests.examples.conftest import Players, load

pytestmark = pytest.mark.anyio
NUMBER, OTHER = "+15550100001", "+15550100003"

SCRIPT = """
[[turn]]
heard = "add"
call = "add_numbers"
arguments = { numbers = [0.1, 0.2, "1200.45", -7] }
then = "That is {output}."
[[turn]]
heard = "dog"
call = "remember"
arguments = { fact = "Their dog is called Åke \\"the Rex\\"." }
then = "{output}"
[[turn]]
heard = "tea"
call = "remember"
arguments = { fact = "They take tea." }
then = "{output}"
[[turn]]
heard = "forget"
call = "forget_me"
then = "{output}"
"""


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("MEMORY_FILE", str(tmp_path / "memory.db"))
    monkeypatch.setenv("MEMORY_KEY", "the key of a test")
    return load("memory")


def call_of(number: str | None, **options: Any) -> Call:
    given: dict[str, Any] = {"called": "+15550100002", "direction": "inbound", **options}
    return Call(sid="CA1", caller=number, started_at=datetime.now(UTC), **given)


def known(instructions: str) -> list[str]:
    """Return the facts that the model was given."""
    facts: list[str] = json.loads(instructions.partition("not as orders: ")[2].rpartition(". Use it")[0])
    return facts


def rows(notebook: Any) -> list[Any]:
    with closing(sqlite3.connect(notebook.FILE)) as opened:
        return opened.execute("SELECT caller, fact FROM facts ORDER BY rowid").fetchall()


async def test_facts_come_back_in_the_next_call(notebook: Any, played: Players) -> None:
    async with played(notebook, SCRIPT) as number:
        async with number.call(caller=NUMBER) as caller:
            assert known(caller.session.session["instructions"]) == []
            await caller.says("Please add these.", hears="That is 1193.75.")
            await caller.says("My dog, remember.", hears="It will be remembered.")
            await caller.says("And tea.", hears="It will be remembered.")
        async with number.call(caller=NUMBER) as caller:
            facts = ['Their dog is called Åke "the Rex".', "They take tea."]
            assert known(caller.session.session["instructions"]) == facts
        async with number.call(caller=OTHER) as caller:
            assert known(caller.session.session["instructions"]) == []
            await caller.says("Forget me.", hears="Forgotten: 0.")
        async with number.call(caller=NUMBER) as caller:
            assert len(known(caller.session.session["instructions"])) == 2
            await caller.says("Forget me.", hears="Forgotten: 2.")
        async with number.call(caller=NUMBER) as caller:
            assert known(caller.session.session["instructions"]) == []


async def test_a_caller_with_a_withheld_number_is_not_remembered(notebook: Any, played: Players) -> None:
    async with played(notebook, SCRIPT) as number, number.call(caller=None) as caller:
        await caller.says("My dog, remember.", hears="withheld")
        assert "nothing can be remembered" in json.loads(caller.returned)["error"]
        await caller.says("Forget me.", hears="Forgotten: 0.")
    assert rows(notebook) == []


def test_the_file_does_not_hold_the_number(notebook: Any) -> None:
    notebook.remember.handler(call_of(NUMBER), "They take tea.")
    ((caller, fact),) = rows(notebook)
    assert fact == "They take tea."
    assert NUMBER[1:].encode() not in Path(notebook.FILE).read_bytes()
    notebook.KEY = b"another key"
    notebook.remember.handler(call_of(NUMBER), "They take tea.")
    assert caller != rows(notebook)[1][0]  # without the key nobody can try all numbers


def test_in_an_outbound_call_the_called_person_is_remembered(notebook: Any) -> None:
    notebook.remember.handler(call_of(OTHER, called=NUMBER, direction="outbound-api"), "They take tea.")
    assert known(notebook.instructions(call_of(NUMBER))) == ["They take tea."]
    assert known(notebook.instructions(call_of(OTHER))) == []


async def test_what_is_kept_is_bounded(notebook: Any) -> None:
    call = call_of(NUMBER)
    notebook.remember.handler(call_of(OTHER), "Another's.")
    for count in range(notebook.MAX_FACTS + 3):
        notebook.remember.handler(call, f"Fact {count}.")
    notebook.remember.handler(call, "Fact 5.")  # again: it is the newest then, and there only once
    facts = known(notebook.instructions(call))
    assert len(facts) == notebook.MAX_FACTS
    assert (facts[0], facts[-2], facts[-1]) == ("Fact 3.", "Fact 22.", "Fact 5.")
    assert known(notebook.instructions(call_of(OTHER))) == ["Another's."]
    assert "at most 200 characters" in await notebook.remember.run(call, json.dumps({"fact": "x" * 201}))
    with closing(sqlite3.connect(notebook.FILE)) as opened, opened:
        opened.execute("UPDATE facts SET at = date('now', '-366 days') WHERE fact = 'Fact 7.'")
    assert "Fact 7." not in known(notebook.instructions(call))


@pytest.mark.parametrize(
    ("numbers", "total"),
    [
        ("[0.1, 0.2]", "0.3"),
        ('["0.10", "0.20"]', "0.30"),
        ("[1e3, 1]", "1001"),
        ("[999999999.999999, 0.000001]", "1000000000.000000"),
        ("[123456789012345, 0.000000000000001]", "123456789012345.000000000000001"),
        ("[-5]", "-5"),
        (f"[{', '.join(['123456789.123456'] * 100)}]", "12345678912.345600"),
    ],
)
async def test_sums_are_exact(notebook: Any, numbers: str, total: str) -> None:
    assert await notebook.add_numbers.run(call_of(None), f'{{"numbers": {numbers}}}') == total


@pytest.mark.parametrize(
    "numbers",
    ["[]", '["NaN"]', '["Infinity"]', "[1e400]", '["1e-16"]', "[1234567890123456]", "[0.1234567890123456]", '["two"]'],
)
async def test_what_cannot_be_added_exactly_is_refused(notebook: Any, numbers: str) -> None:
    told = json.loads(await notebook.add_numbers.run(call_of(None), f'{{"numbers": {numbers}}}'))
    assert "bad arguments: numbers" in told["error"]
