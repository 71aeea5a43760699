"""Transfers survive a crash and a deploy at every step: nothing is lost, and no party is called twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytest

from phoneagent.bridge.steps import Transfer
from phoneagent.sim import Line, Model, Phone, Script
from phoneagent.sim.model.vad import EnergyGate
from phoneagent.sim.speech import Murmur
from phoneagent.sim.twilio import callee
from phoneagent.sim.twilio.callee import Callee, Exchange, Outcome
from phoneagent.sim.twilio.network import Network
from phoneagent.sim.twilio.rest import TwilioRest
from phoneagent.store import CallDetails, Store
from tests.patience import HANG_SECONDS
from tests.resilience.callers import BROKEN, CALLBACK_LOST, HANDSHAKE_FAILED
from tests.resilience.cluster import ACCOUNT_SID, AUTH_TOKEN, PUBLIC_URL, Cluster
from tests.resilience.switchboard import DESKS

pytestmark = pytest.mark.anyio

TARGET = Path(__file__).parent / "switchboard.py"

OWN = "+15550100002"
WORDS = "I am putting you through to a colleague who knows all about that, and who will be with you in a moment. " * 2
RINGS = 3
End: TypeAlias = Literal["talked", "came back"]


@dataclass(frozen=True)
class Step:
    """Where a transfer is when the process is struck, and how it must end."""

    name: str
    tool: Literal["transfer", "offer"]
    end: End
    rings: int = 0
    outcome: Outcome = "answers"
    key: str = ""
    """What the party presses, after the strike unless `early`."""
    early: bool = False


STEPS = [
    Step("cold: the agent says so", "transfer", "talked"),
    Step("cold: the party rings", "transfer", "talked", rings=RINGS),
    Step("cold: the party rings, and does not answer", "transfer", "came back", outcome="declines", rings=RINGS),
    Step("cold: the caller is back", "transfer", "came back", outcome="busy"),
    Step("warm: the party rings", "offer", "talked", rings=RINGS, key="1"),
    Step("warm: the party listens", "offer", "talked", key="1"),
    Step("warm: the party listens, and refuses", "offer", "came back", key="2"),
    Step("warm: the party has accepted", "offer", "talked", key="1", early=True),
]


NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def spoken(step: Step) -> str:
    return f"{NUMBERS[STEPS.index(step)]} is the desk that I would like to talk to, please"


@cache
def audio(text: str) -> bytes:
    return Murmur(pitch_hz=120).render(text)


class Ear:
    """An ear that knows each of the callers' lines."""

    async def hear(self, ulaw: bytes) -> str:
        texts = [*map(spoken, STEPS), BYE]
        return next((text for text in texts if audio(text)[800 : len(audio(text)) // 2] in ulaw), "")


BYE = "Thank you and goodbye"


def model() -> Model:
    turns = [
        f'''
[[turn]]
heard = "{spoken(step)}"
say = "{WORDS if step.name == "cold: the agent says so" else "One moment."}"
call = "{step.tool}"
arguments = {{ to = "desk {number}" }}
then = "I am still with you."
'''
        for number, step in enumerate(STEPS)
    ]
    end = f'''
[[turn]]
heard = "{BYE}"
say = "Goodbye!"
call = "hang_up"
'''
    return Model(Script.parse('default = "I am still with you."' + "".join(turns) + end), ear=Ear(), vad=EnergyGate)


class Scene:
    """A caller and a party, in one of the steps."""

    def __init__(self, step: Step, network: Network, struck: asyncio.Event) -> None:
        self.step = step
        number = DESKS[f"desk {STEPS.index(step)}"]
        self.party = Callee(number, self._conduct, rings=step.rings, outcome=step.outcome)
        self._network, self._struck = network, struck
        self.line: Line

    async def _conduct(self, line: Line) -> None:
        if self.step.tool == "offer":
            await line.wait_for_words("Press 1")
            if not self.step.early:
                await self._struck.wait()
                await asyncio.sleep(1)
            await line.press(self.step.key)
            await until(lambda: self.joined == 2 or line.ended_by)
        else:
            await line.bridged.wait()
        await asyncio.sleep(1)
        if line.ended_by is None:
            await line.hang_up()

    @property
    def joined(self) -> int:
        """How many calls are, or were, in the conference of the party."""
        sids = {each.call_sid for each in self.party.lines}
        return max((len(each.joined) for _, each in self._network.conferences if sids & set(each.joined)), default=0)

    async def enter(self, store: Store) -> None:
        """Get to the step."""
        await self.line.wait_for_silence(ms=300)
        await self.line.say(audio(spoken(self.step)), spoken(self.step))
        match self.step.name.partition(": ")[2]:
            case "the agent says so":
                async with asyncio.timeout(HANG_SECONDS):  # the agent has called the tool, and still speaks
                    while not isinstance((await store.standing(self.line.call_sid)).step, Transfer):
                        await asyncio.sleep(0.02)
                assert self.line.playing
            case "the caller is back":
                await self.line.wait_for_stream(2)
            case "the party has accepted":
                await until(lambda: self.joined)
            case "the party listens" | "the party listens, and refuses":
                await (await self.party.called(timeout=30)).wait_for_words("Press 1")
            case _:
                await until(lambda: self.party.rung)

    async def end(self) -> None:
        """Wait until the transfer has ended as it must, and the call after it."""
        if self.step.end == "came back":
            await self.party.over(timeout=30)
            heard = len(self.line.streams)
            await until(lambda: self.line.stream is not None)
            await self.line.wait_for_silence(ms=1500, timeout=30)
            await self.line.say(audio(BYE), BYE)
            assert heard
        await self.line.wait_ended(60)

    def check(self, record: CallDetails) -> str:
        """Check what became of the call, and return it as a row of the table."""
        excused = (CALLBACK_LOST, BROKEN, HANDSHAKE_FAILED)
        assert [each for each in self.line.violations if not any(known in each for known in excused)] == []
        assert self.party.rung == 1, "called twice" if self.party.rung else "never called"
        talked = self.joined == 2 if self.step.tool == "offer" else self.line.bridged.is_set()
        assert talked is (self.step.end == "talked")
        assert self.line.verbs[-1] == "Hangup"
        assert record.ended_by == "agent"
        assert (record.reason == f"transferred to desk {STEPS.index(self.step)}") is talked
        return f"{self.step.name:<50} {self.step.end:<10} rung {self.party.rung} x, {len(self.line.streams)} streams"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


async def record_of(store: Store, line: Line) -> CallDetails:
    async with asyncio.timeout(HANG_SECONDS):
        while (found := await store.call(line.call_sid)) is None or found.ended_by is None:
            await asyncio.sleep(0.05)
    return found


@pytest.mark.parametrize("fault", ["SIGKILL", "SIGTERM"])
async def test_a_transfer_survives_at_each_step(
    tmp_path: Path, fault: str, measured: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callee, "RING_SECONDS", 2.0)
    struck, network = asyncio.Event(), Network()
    url = f"sqlite:///{tmp_path}/phoneagent.db"
    async with AsyncExitStack() as stack:
        rest = await stack.enter_async_context(TwilioRest(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN))
        rest.add_number(OWN)
        brain = await stack.enter_async_context(model())
        environment: dict[str, Any] = {"TWILIO_API_URL": rest.url, "MAX_CALLS_PER_CALLER": "20"}
        cluster = await stack.enter_async_context(
            Cluster(tmp_path, database_url=url, model_url=brain.url, target=TARGET, **environment)
        )
        store = await stack.enter_async_context(Store.from_url(url))
        first, second = cluster.processes
        second.in_rotation = False  # so that the first has all calls
        phone = Phone(
            f"{cluster.balancer.url}/twilio/voice#rc=5&rp=all",
            auth_token=AUTH_TOKEN,
            public_url=PUBLIC_URL,
            account_sid=ACCOUNT_SID,
            status_callback="/twilio/status",
            rest=rest,
            network=network,
        )
        scenes = [Scene(step, network, struck) for step in STEPS]
        await stack.enter_async_context(Exchange(phone, *(each.party for each in scenes)))
        for scene in scenes:
            scene.line = await stack.enter_async_context(phone.dial())
        await asyncio.gather(*(each.enter(store) for each in scenes))
        second.in_rotation = True
        if fault == "SIGKILL":
            first.kill()
        else:
            first.in_rotation = False
            await first.terminate()
        struck.set()
        await asyncio.gather(*(each.end() for each in scenes))
        rows = [each.check(await record_of(store, each.line)) for each in scenes]
        assert brain.violations == []
        measured("\n".join([f"{fault} when …", *rows]))
