"""A whole call that is acted on and listened to from outside, over HTTP and a WebSocket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from phoneagent import Agent, CallControlled, CallEnded, CallTransferred, TurnEnded
from phoneagent.protocol.audio import rms
from phoneagent.sim import TwilioRest
from phoneagent.sim.speech import Murmur
from phoneagent.sim.twilio.callee import Callee, Exchange
from phoneagent.sim.twilio.network import Network
from phoneagent.store import Store
from tests.end_to_end.by_hand import told
from tests.end_to_end.conftest import ACCOUNT_SID, AUTH_TOKEN, Worlds
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio
TOKEN = {"Authorization": "Bearer let-me-in"}
LOUD = 400


async def hear(socket: aiohttp.ClientWebSocketResponse, tracks: dict[int, bytearray]) -> None:
    async for message in socket:
        assert message.type is aiohttp.WSMsgType.BINARY
        assert len(message.data) == 161
        tracks[message.data[0]] += message.data[1:]


def loud_ms(track: bytearray) -> int:
    """How long something was heard on a track."""
    return sum(20 for start in range(0, len(track), 160) if rms(bytes(track[start : start + 160])) > LOUD)


async def test_a_call_is_listened_to_and_led_from_outside(world: Worlds) -> None:
    agent = Agent(name="host", instructions="x", greeting="Chez Nous, good evening, how can I help you today?")
    async with (
        world(agent, api_token=SecretStr("let-me-in"), log_messages=True) as w,
        aiohttp.ClientSession(w.url, headers=TOKEN) as http,
    ):

        async def post(name: str, **body: Any) -> Any:
            async with http.post(f"/calls/{sid}/{name}", json=body) as answer:
                assert answer.status == 202, await answer.text()
                return await answer.json()

        async with w.phone().dial() as line:
            async with http.get("/calls") as answer:
                ((live),) = (await answer.json())["calls"]
            sid = live["call_sid"]
            tracks = {0: bytearray(), 1: bytearray()}
            socket = await http.ws_connect(f"/calls/{sid}/audio")
            hearing = asyncio.create_task(hear(socket, tracks))
            await line.wait_for_silence(ms=300)
            heard_ms = loud_ms(tracks[1])
            assert heard_ms > 1000  # the greeting, as the caller heard it
            await line.say(Murmur().render("A table for four, please."))
            assert loud_ms(tracks[0]) > 500
            await line.wait_for_silence(ms=300)

            before = len(w.of(TurnEnded))
            await post("say", text="The manager is on his way.")
            await w.until(lambda: any("manager" in each.turn.heard_text for each in w.of(TurnEnded)[before:]))

            assert (await post("mute", muted=True))["muted"] is True
            await asyncio.sleep(0.2)  # what was on its way has come
            at = len(tracks[1])
            await line.say(Murmur().render("Hello? Is there anybody?"))
            await asyncio.sleep(6)
            assert len(tracks[1]) == at  # neither an answer nor a filler
            assert (await post("mute", muted=False))["muted"] is False
            await w.until(lambda: len(tracks[1]) > at)
            await line.wait_for_silence(ms=300)

            async with http.get(f"/calls/{sid}/log") as answer:
                log = (await answer.json())["messages"]
            kinds = {(each["side"], each["direction"], each["type"]) for each in log}
            assert {("caller", "in", "mark"), ("model", "out", "response.create")} <= kinds
            assert ("model", "in", "response.done") in kinds
            await post("hang-up", goodbye=False)
            async with asyncio.timeout(HANG_SECONDS):
                await hearing
            assert socket.close_code == 1000
        await w.until(lambda: w.of(CallEnded))
        assert [each.operation for each in w.of(CallControlled)] == ["say", "mute", "unmute", "hang-up"]
        async with http.post(f"/calls/{sid}/say", json={"text": "Hello?"}) as answer:
            assert answer.status == 404


async def test_the_log_of_a_call_has_no_digit_that_is_gathered(world: Worlds) -> None:
    pin = "739154"
    typed: list[str] = []
    agent = Agent(instructions="x", greeting="Type your PIN, please.")
    async with (
        world(agent, api_token=SecretStr("let-me-in"), log_messages=True) as w,
        aiohttp.ClientSession(w.url, headers=TOKEN) as http,
    ):
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=300)
            ((call),) = w.app.calls.values()
            gathering = asyncio.create_task(call.gather(6))
            await asyncio.sleep(0.1)
            await line.press(pin)
            typed.append(await gathering)
            async with http.get(f"/calls/{call.sid}/log") as answer:
                log = (await answer.json())["messages"]
        assert typed == [pin]
        keys = [each for each in log if each["type"] == "dtmf"]
        assert len(keys) == len(pin)
        assert {each["data"]["dtmf"] for each in keys} == {"(hidden)"}
        assert not any(f'"digit": "{digit}"' in json.dumps(log) for digit in pin)


@pytest.mark.parametrize("warm", [False, True])
async def test_a_call_that_is_transferred_from_outside_comes_back_from_a_party_that_is_busy(
    world: Worlds, tmp_path: Path, warm: bool
) -> None:
    agent = Agent(instructions="x", greeting="Hello!")
    party = Callee("+12025550107", outcome="busy")
    network = Network()
    network.parties = {party.number: party}
    async with (
        TwilioRest(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN) as rest,
        Store.from_url(f"sqlite:///{tmp_path}/calls.db") as store,
        world(agent, store=store, twilio_api_url=rest.url, api_token=SecretStr("let-me-in")) as w,
        aiohttp.ClientSession(w.url, headers=TOKEN) as http,
    ):
        rest.add_number("+15550100002")
        phone = w.phone(rest=rest, network=network)
        async with Exchange(phone, party), phone.dial() as line:
            await line.wait_for_silence()
            path, body = f"/calls/{line.call_sid}/transfer", {"to": party.number, "name": "billing", "warm": warm}
            async with http.post(path, json=body) as answer:
                assert answer.status == 202, await answer.text()
            await w.until(lambda: w.of(CallTransferred))
            if not warm:
                await line.wait_for_stream(2, timeout=60)
            sessions = w.model.sessions
            await w.until(lambda: any("billing is busy" in each for each in told(sessions[-1])))
            await line.hang_up()
        assert [(each.to_name, each.outcome, each.warm) for each in w.of(CallTransferred)] == [
            ("billing", "busy", warm)
        ]
        assert (party.rung, len(line.streams), line.violations, rest.violations) == (1, 1 if warm else 2, [], [])
        assert party.number not in w.log.text
