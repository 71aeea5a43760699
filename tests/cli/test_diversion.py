"""A number is pointed elsewhere and back, whatever happens in between."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phoneagent import DefinitionError, TelephonyError
from phoneagent.cli.diversion import Diversion, only_one
from phoneagent.sim import TwilioRest
from phoneagent.twilio.pointing import webhook_of
from phoneagent.twilio.rest import PhoneNumbers

pytestmark = pytest.mark.anyio

ACCOUNT, TOKEN, NUMBER = "AC" + "1" * 32, "the-auth-token", "+15550100002"
OURS = webhook_of("https://mine.ngrok.app")
BEFORE = {"voice_url": "https://old.example/voice", "voice_method": "GET", "status_callback": "https://old.example/s"}


@dataclass
class World:
    """The number at Twilio, and who points it elsewhere."""

    rest: TwilioRest
    sid: str
    folder: Path

    @property
    def number(self) -> dict[str, Any]:
        return self.rest.numbers[self.sid]

    def diversion(self) -> Diversion:
        numbers = PhoneNumbers(ACCOUNT, TOKEN, api_url=self.rest.url, backoff_seconds=0.01)
        return Diversion(numbers, self.folder)

    def as_before(self) -> bool:
        return all(self.number[name] == value for name, value in BEFORE.items())

    def remembered(self) -> bool:
        return any(self.folder.iterdir())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with TwilioRest(account_sid=ACCOUNT, auth_token=TOKEN) as rest:
        yield World(rest, rest.add_number(NUMBER, **BEFORE), tmp_path)
        assert rest.violations == []


async def test_there_and_back(world: World) -> None:
    diversion = world.diversion()
    await diversion.divert(NUMBER, OURS)
    assert world.number["voice_url"].startswith("https://mine.ngrok.app/twilio/voice#rc=")
    assert world.number["voice_fallback_url"].startswith("https://mine.ngrok.app/twilio/voice")
    assert world.number["status_callback"] == OURS.status_callback
    assert world.number["voice_method"] == "POST"
    assert await diversion.restore()
    assert world.as_before()
    assert world.number["voice_fallback_url"] == ""
    assert not world.remembered()
    assert not await diversion.restore()


async def test_another_process_puts_it_back(world: World) -> None:
    await world.diversion().divert(NUMBER, OURS)
    assert NUMBER not in (world.folder / "webhook.json").read_text()
    assert await world.diversion().restore()
    assert world.as_before()


async def test_a_change_that_was_made_meanwhile_stays(world: World) -> None:
    diversion = world.diversion()
    await diversion.divert(NUMBER, OURS)
    world.number["voice_url"] = "https://newer.example"
    assert not await diversion.restore()
    assert world.number["voice_url"] == "https://newer.example"
    assert not world.remembered()


async def test_twilio_may_spell_the_fragment_its_own_way(world: World) -> None:
    diversion = world.diversion()
    await diversion.divert(NUMBER, OURS)
    world.number["voice_url"] = world.number["voice_url"].replace(",", "%2C")
    assert await diversion.restore()
    assert world.as_before()


async def test_a_number_that_points_here_already_has_nothing_to_remember(world: World) -> None:
    diversion = world.diversion()
    await diversion.divert(NUMBER, OURS)
    (world.folder / "webhook.json").unlink()
    await diversion.divert(NUMBER, OURS)
    assert not world.remembered()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"voice_application_sid": "AP" + "1" * 32}, "the TwiML app AP11.* takes the number's calls"),
        ({"trunk_sid": "TK" + "1" * 32}, "the SIP trunk TK11.* takes the number's calls"),
        ({"phone_number": "+15550109999"}, "not a number of this account"),
    ],
)
async def test_a_number_that_cannot_be_pointed_stays_as_it_is(world: World, fields: Any, words: str) -> None:
    world.number.update(fields)
    with pytest.raises(TelephonyError, match=words):
        await world.diversion().divert(NUMBER, OURS)
    assert world.as_before()
    assert not world.remembered()


async def test_twilio_is_away_when_it_is_to_be_put_back(world: World) -> None:
    diversion = world.diversion()
    await diversion.divert(NUMBER, OURS)
    world.rest.fail_next(503, times=3)
    with pytest.raises(TelephonyError, match="having problems"):
        await diversion.restore()
    assert await diversion.restore(), "it was still remembered"
    assert world.as_before()


async def test_a_number_that_is_gone_is_forgotten(world: World) -> None:
    diversion = world.diversion()
    await diversion.divert(NUMBER, OURS)
    world.rest.numbers.clear()
    assert not await diversion.restore()
    assert not world.remembered()


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"number": "PN1", "before": {"x": 1}, "ours": {}})])
async def test_a_damaged_file_is_not_guessed_at(world: World, content: str) -> None:
    (world.folder / "webhook.json").write_text(content)
    with pytest.raises(DefinitionError, match="check your number's webhook"):
        await world.diversion().restore()
    assert world.remembered()


async def test_what_cannot_be_remembered_is_not_done(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.folder /= "missing"
    with pytest.raises(DefinitionError, match="cannot be written"):
        await world.diversion().divert(NUMBER, OURS)
    assert world.as_before()


def test_only_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / ".phoneagent"
    with only_one(folder):
        assert (folder / ".gitignore").read_text() == "*\n"
        with pytest.raises(DefinitionError, match="already runs"), only_one(folder):
            pass
    with only_one(folder):
        pass


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DefinitionError, match="cannot be created"), only_one(tmp_path / "file"):
        pass
