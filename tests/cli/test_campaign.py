"""`phoneagent campaign`: a list that is called to its end, reports in each form, a stop, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from phoneagent.cli import campaign as command
from phoneagent.cli.campaign import _cells, _print_report, _progress, _start, _status, _stop, _watch
from phoneagent.sim.twilio.callee import Callee, person
from phoneagent.store import Store
from phoneagent.store.campaign_records import Campaign, CampaignCall, NewCall
from phoneagent.store.rows import now
from tests.cli.conftest import run
from tests.end_to_end.conftest import Worlds, anyio_backend, media_socket, world
from tests.end_to_end.test_calling_out import VOICE, calling, polite

__all__ = ["anyio_backend", "media_socket", "world"]

pytestmark = pytest.mark.anyio

ANNA, BEN = "+12025550100", "+12025550101"
OPTIONS: dict[str, Any] = {"hours": "00:00-24:00", "days": "mon-sun", "attempts": 1, "calls_per_second": 0}


@pytest.fixture
def visits(tmp_path: Path) -> Path:
    path = tmp_path / "visits.csv"
    path.write_text(f"to,name\n{ANNA},Anna\nanna,x\n{BEN},Ben\n", encoding="utf-8")
    return path


async def test_a_list_is_called_to_its_end_and_reported(
    world: Worlds, tmp_path: Path, visits: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    callees = [Callee(ANNA, person(VOICE.render("Hello?"), "Hello?", polite)), Callee(BEN, outcome="busy")]
    async with calling(world, tmp_path, *callees) as (w, _, exchange):
        assert await _start(w.app, "visits", visits, OPTIONS, wait=True)
    assert exchange.failures == []
    assert [each.rung for each in callees] == [1, 1]
    out = capsys.readouterr().out
    assert "campaign visits" in out
    assert "starts: 2 numbers" in out
    assert "1 line skipped" in out
    assert "done: 1 finished, 1 given up, 1 skipped" in out
    assert "busy, after 1 of 1 attempts" in out
    assert ANNA not in out
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/calls.db")
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", "")
    await _status("visits", True, None, False)
    shown = json.loads(capsys.readouterr().out)
    assert [each["to"] for each in shown["calls"]] == [ANNA, "", BEN]
    assert [each["state"] for each in shown["calls"]] == ["finished", "skipped", "given_up"]
    assert shown["calls"][0]["call_sid"] == callees[0].lines[0].call_sid
    report = tmp_path / "report.csv"
    await _status("visits", False, report, False)
    rows = list(csv.DictReader(io.StringIO(report.read_text(encoding="utf-8"))))
    assert [(row["line"], row["to"], row["result"], row["attempts"]) for row in rows] == [
        ("2", ANNA, "completed", "1"),
        ("3", "", "", "0"),
        ("4", BEN, "busy", "1"),
    ]
    await _status("visits", False, None, True)
    assert ANNA in capsys.readouterr().out
    terminal = Console(width=100, force_terminal=True, file=io.StringIO(), color_system=None)
    async with Store.from_url(f"sqlite:///{tmp_path}/calls.db") as store:
        found = await store.campaigns.find("visits")
        assert found is not None
        await _print_report(terminal, store.campaigns.calls, found, numbers=False)
    assert isinstance(terminal.file, io.StringIO)
    assert "attempts" in terminal.file.getvalue()
    assert ANNA not in terminal.file.getvalue()
    await _status(None, False, None, False)
    assert "visits" in capsys.readouterr().out
    await _stop("visits")
    assert "is over already: done" in capsys.readouterr().out


async def filled(store: Store, count: int = 1) -> Campaign:
    campaign = await store.campaigns.begin("visits", "digest", {})
    calls = [NewCall(position=n, to=f"+1202555{n:04}", due_at=now()) for n in range(2, 2 + count)]
    await store.campaigns.fill(campaign.id, calls)
    await store.campaigns.run(campaign.id)
    found = await store.campaigns.find(campaign.id)
    assert found is not None
    return found


async def test_a_running_campaign_is_stopped_and_the_list_of_many_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/calls.db"
    async with Store.from_url(url) as store:
        await filled(store, command.MAX_SHOWN + 3)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("PHONEAGENT_ENV_FILE", "")
    await _stop("visits")
    assert capsys.readouterr().out == "campaign visits: no new calls\n"
    await _status("visits", False, None, False)
    assert "and 3 more: --csv" in capsys.readouterr().out
    await _status(None, True, None, False)
    assert [each["state"] for each in json.loads(capsys.readouterr().out)] == ["stopped"]


def test_a_name_with_brackets_is_shown_as_it_is() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with _progress(console) as progress:
        progress.add_task("[/May] [list]", total=1)
    assert "[/May] [list]" in console.file.getvalue()


async def test_a_campaign_that_is_deleted_meanwhile_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with Store.from_url(f"sqlite:///{tmp_path}/calls.db") as store:
        found = await filled(store)

        async def gone(id: str) -> None:
            return None

        with pytest.raises(typer.Exit):
            await _watch(Console(), gone, found)
    assert "was deleted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["start", "none.csv", "cli_app:app", "--from", "+15550100002"], 2, "cannot be read"),
        (["start", "visits.csv", "cli_app:app"], 2, "TWILIO_PHONE_NUMBER"),
        (["start", "visits.csv", "cli_app:app", "--from", "+15550100002", "--hours", "9-5"], 2, "hours"),
        (["start", "visits.csv", "cli_app:app", "--from", "+15550100002", "--strict"], 2, "line 3"),
        (["start", "visits.csv", "cli_app:app", "--from", "+15550100002", "--retry", "always"], 2, "retry"),
        (["start", "visits.csv", "cli_app:app", "--do-not-call", "bad.txt"], 2, "bad.txt, line 1"),
        (["stop", "none"], 1, "no campaign 'none'"),
        (["status", "none"], 1, "no campaign 'none'"),
        (["status", "--csv", "x.csv"], 2, "name the campaign too"),
    ],
)
def test_what_is_refused(
    folder: Path,
    visits: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    (folder / "bad.txt").write_text("nobody\n")
    assert run(monkeypatch, "campaign", *arguments) == status
    assert words in capsys.readouterr().err


def test_without_a_database_there_is_no_campaign(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "campaign", "status") == 0
    assert "there is no campaign yet" in capsys.readouterr().out


def test_an_outcome_cannot_control_the_terminal() -> None:
    call = CampaignCall(
        position=2,
        to=ANNA,
        context={},
        state="finished",
        attempts=1,
        due_at=None,
        call_sid=None,
        result="completed",
        reason=None,
        ended_at=None,
        outcome={"name": "\x9b2J\u202eé"},
    )
    assert _cells(call, False, running=False)[5] == '{"name": " 2J é"}'
