"""`phoneagent call`: a call that is made, one that is not answered, and what cannot be called."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from phoneagent.cli import call as command
from phoneagent.cli.call import _call, _pair
from phoneagent.errors import DefinitionError, TelephonyError
from phoneagent.sim.twilio.callee import Callee, person
from tests.cli.conftest import run
from tests.end_to_end.conftest import Worlds, anyio_backend, media_socket, world
from tests.end_to_end.test_calling_out import ANNA, VOICE, calling, polite

__all__ = ["anyio_backend", "media_socket", "world"]

pytestmark = pytest.mark.anyio

OPTIONS: dict[str, Any] = {
    "context": {"name": "Anna"},
    "idempotency_key": None,
    "from_": None,
    "agent": None,
    "first": "callee",
    "on_machine": "hang_up",
    "message": None,
    "timeout": 20,
    "time_limit": 60,
}


async def test_a_call_is_made_and_told(world: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    anna = Callee(ANNA, person(VOICE.render("Hello?"), "Hello?", polite))
    async with calling(world, tmp_path, anna) as (w, _, exchange):
        assert await _call(w.app, ANNA, OPTIONS)
        await anna.over()
    assert exchange.failures == []
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in ("ringing", "in-progress", "completed")][-2:] == [
        "in-progress",
        "completed",
    ]
    assert lines[-2:] == ["answered by: person", f"phoneagent calls {anna.lines[0].call_sid}"]


async def test_ctrl_c_ends_the_command_and_not_the_call(
    world: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    async with calling(world, tmp_path, Callee(ANNA, person(VOICE.render("Hello?"), "Hello?", polite))) as (w, _, _):
        waiting = asyncio.create_task(_call(w.app, ANNA, OPTIONS))
        while not capsys.readouterr().out:
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    told = "the call goes on when this command ends: the app at PUBLIC_URL places it\n"
    assert capsys.readouterr().err == told


async def test_a_call_that_is_not_answered_fails(world: Worlds, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    async with calling(world, tmp_path, Callee(ANNA, outcome="busy")) as (w, _, _):
        assert not await _call(w.app, ANNA, OPTIONS)
    assert "busy" in capsys.readouterr().out


async def test_an_app_that_does_not_hear_of_the_call_is_told_of(
    world: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(command, "UNHEARD_SECONDS", 0.5)
    async with calling(world, tmp_path) as (w, rest, exchange):
        exchange._taking.cancel()  # Twilio's requests do not arrive
        with pytest.raises(TelephonyError, match="PUBLIC_URL"):
            await _call(w.app, ANNA, OPTIONS)
        assert len(rest.calls) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["+1911"], 1, "emergency"),
        (["+19005551234"], 1, "premium-rate"),
        (["anna"], 1, "E.164"),
        (["+15550100009"], 2, "TWILIO_PHONE_NUMBER is missing: set it, or name the number to call from (from)\n"),
        (["+15550100009", "--from", "x"], 2, "from_"),
        (["+15550100009", "--from", "+15550100002", "--context", "x"], 2, "NAME=VALUE"),
        (["+15550100009", "--from", "+15550100002", "--on-machine", "leave_message"], 2, "message"),
        (["+15550100009", "--from", "+15550100002", "--agent", "nobody"], 2, "nobody"),
        (["+15550100009", "--from", "+15550100002", "--timeout", "1"], 2, "timeout"),
    ],
)
def test_what_cannot_be_called(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    number, *rest = arguments
    assert run(monkeypatch, "call", number, "cli_app:app", *rest) == status
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (folder / "phoneagent.db").exists()
    asyncio.set_event_loop(None)


def test_values_of_the_context() -> None:
    assert _pair("name=Anna = Ben") == ("name", "Anna = Ben")
    for text in ("", "name", "=x"):
        with pytest.raises(DefinitionError):
            _pair(text)
