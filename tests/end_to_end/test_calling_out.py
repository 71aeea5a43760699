"""Calls that the app makes, to people and machines: the real app, the simulated Twilio, model and callees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from phoneagent import Agent, Call, CallEnded, CallNotAnswered, CallStarted, TurnEnded
from phoneagent.sim import TwilioRest
from phoneagent.sim.speech import Murmur
from phoneagent.sim.twilio.callee import Callee, Exchange, fax, machine, menu, person, recorded
from phoneagent.sim.twilio.line import Line
from phoneagent.sim.twilio.menu import Menu
from phoneagent.store import Store
from phoneagent.store.records import OutboundCall
from tests.end_to_end.conftest import ACCOUNT_SID, AUTH_TOKEN, World, Worlds
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio

OURS, ANNA = "+15550100002", "+15550100009"
VOICE = Murmur()
MESSAGE = "This is the dentist. Anna, your visit is on Friday at nine."
GREETING = "Hi, this is Anna. I cannot talk now, so please leave me a message after the beep."
SCRIPT = """
[[turn]]
heard = "hello"
caller = "Hello?"
say = "Good morning Anna, this is the dentist."
[[turn]]
heard = "oh"
caller = "Oh, hello."
say = "Your visit is on Friday at nine."
"""
TO_A_MACHINE = f"""
[[turn]]
heard = "Anna"
caller = "{GREETING}"
say = "Good morning, this is the dentist. Do you have a moment for me to talk about your visit?"
"""


@asynccontextmanager
async def calling(
    world: Worlds, tmp_path: Path, *callees: Callee, agent: Any = None, script: str | None = SCRIPT, **changes: Any
) -> AsyncIterator[tuple[World, TwilioRest, Exchange]]:
    async with TwilioRest(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN) as rest:
        rest.add_number(OURS)
        settings = {"twilio_api_url": rest.url, "twilio_phone_number": OURS, "calls_per_second": 0, **changes}
        async with (
            Store.from_url(f"sqlite:///{tmp_path}/calls.db") as store,
            world(agent or Agent(instructions="Remind them."), script, store=store, **settings) as w,
            Exchange(w.phone(rest=rest), *callees) as exchange,
        ):
            yield w, rest, exchange
        assert rest.violations == []


async def ended(w: World, made: OutboundCall) -> OutboundCall:
    async with asyncio.timeout(300):
        while (found := await w.app.outbound_call(made.id)) is None or not found.over:
            await asyncio.sleep(0.5)
    return found


async def polite(line: Line) -> None:
    await line.wait_for_silence()
    await line.say(VOICE.render("Oh, hello."), "Oh, hello.")
    await line.wait_for_silence()
    await line.hang_up()


async def test_a_person_is_called_and_the_context_is_known(world: Worlds, tmp_path: Path):
    seen: list[Any] = []

    def instructions(call: Call) -> str:
        seen.append((dict(call.context), call.party, call.direction))
        return f"Remind {call.context['name']} of her visit."

    anna = Callee(ANNA, person(VOICE.render("Hello?"), "Hello?", polite))
    async with calling(world, tmp_path, anna, agent=Agent(instructions=instructions)) as (w, rest, exchange):
        made = await w.app.dial(ANNA, context={"name": "Anna", "visit": 7}, idempotency_key="visit-7")
        again = await w.app.dial(ANNA, context={"name": "Anna", "visit": 7}, idempotency_key="visit-7")
        assert again.id == made.id
        found = await ended(w, made)
        await anna.over()
        await w.until(lambda: w.of(CallEnded))
    assert exchange.failures == []
    assert (found.status, anna.rung, len(rest.calls)) == ("completed", 1, 1)
    assert seen == [({"name": "Anna", "visit": 7}, ANNA, "outbound-api")]
    assert w.of(CallStarted)[0].direction == "outbound-api"
    said = [event.turn.text for event in w.of(TurnEnded) if event.turn.role == "agent"]
    assert said[0] == "Good morning Anna, this is the dentist."
    assert not anna.lines[0].violations


async def test_another_process_that_takes_the_call_over_knows_its_context(world: Worlds, tmp_path: Path):
    async def then(line: Line) -> None:
        await line.wait_for_silence()
        await line.wait_for_stream(2)
        await asyncio.sleep(1)
        await line.hang_up()

    anna = Callee(ANNA, person(VOICE.render("Hello?"), "Hello?", then))
    seen: list[Any] = []

    def choose(call: Call) -> Agent:
        seen.append(dict(call.context))
        return Agent(instructions="Remind them.")

    async with calling(world, tmp_path, anna, agent=choose) as (w, _, exchange):
        await w.app.dial(ANNA, context={"visit": 7}, on_machine="hang_up")
        line = await anna.called()
        await line.wait_for_silence()
        w.app._parts.outbound._known.clear()  # as another process, which has only the database
        w.app.hand_over_now(line.call_sid, "a deploy")
        await anna.over()
    assert exchange.failures == []
    assert seen == [{"visit": 7}] * 2
    assert len(line.streams) == 2


async def test_a_process_that_drains_places_no_calls_and_the_next_one_does(world: Worlds, tmp_path: Path):
    anna = Callee(ANNA, outcome="busy")
    async with calling(world, tmp_path, anna) as (w, rest, _):
        w.app.draining = True
        made = await w.app.dial(ANNA)
        await asyncio.sleep(2)
        assert (anna.rung, len(rest.calls)) == (0, 0)
        w.app.draining = False
        w.app._parts.outbound.dialer.wake()
        assert (await ended(w, made)).status == "busy"


async def test_an_agent_that_speaks_first_is_heard_and_another_agent_can_have_the_call(world: Worlds, tmp_path: Path):
    desk = Agent(name="desk", instructions="x", greeting="This is the desk.")
    caller = Agent(name="reminder", instructions="x", greeting="This is a reminder.", handoffs=[desk])

    async def then(line: Line) -> None:
        await line.wait_for_silence()
        await line.hang_up()

    for number, name in (("+15550100008", None), ("+15550100007", "desk")):
        callee = Callee(number, then)
        async with calling(world, tmp_path, callee, agent=caller, script=None) as (w, _, exchange):
            await w.app.dial(number, first="agent", agent=name)
            await callee.over()
            await w.until(lambda: w.of(CallEnded))
            said = [event.turn.heard_text for event in w.of(TurnEnded) if event.turn.role == "agent"]
        assert exchange.failures == []
        assert said == ["This is the desk." if name else "This is a reminder."]


async def test_a_call_at_its_time_limit_ends_with_a_goodbye(world: Worlds, tmp_path: Path):
    async def then(line: Line) -> None:
        await line.wait_ended(60)

    callee = Callee(ANNA, then)
    agent = Agent(instructions="x", greeting="Hello, this is the dentist.")
    script = 'default = "We end soon."\ngoodbye = "Our time is up."'
    async with calling(world, tmp_path, callee, agent=agent, script=script) as (w, _, exchange):
        await w.app.dial(ANNA, first="agent", time_limit=12)
        await callee.over()
        await w.until(lambda: w.of(CallEnded))
        (ended_,) = w.of(CallEnded)
    assert exchange.failures == []
    assert (ended_.ended_by, ended_.reason) == ("agent", "the call reached its maximum duration")
    assert ended_.transcript[-1].heard_text == "Our time is up."


async def test_a_silent_callee_is_greeted_after_a_while(world: Worlds, tmp_path: Path):
    async def then(line: Line) -> None:
        await line.wait_for_silence()
        await line.hang_up()

    callee = Callee(ANNA, then)
    agent = Agent(instructions="x", greeting="Hello, this is the dentist.")
    async with calling(world, tmp_path, callee, agent=agent, script=None) as (w, _, exchange):
        await w.app.dial(ANNA)
        await callee.over()
        await w.until(lambda: w.of(CallEnded))
        (turn,) = [event.turn for event in w.of(TurnEnded) if event.turn.role == "agent"]
    assert exchange.failures == []
    assert turn.heard_text == "Hello, this is the dentist."
    assert 4000 <= turn.start_ms < 6000


@pytest.mark.parametrize(
    ("callee", "status"),
    [
        (Callee(ANNA, outcome="busy"), "busy"),
        (Callee(ANNA, outcome="no-answer"), "no-answer"),
        (Callee(ANNA, outcome="declines"), "busy"),
        (Callee("+15550100010"), "failed"),
    ],
)
async def test_calls_that_are_not_answered(world: Worlds, tmp_path: Path, callee: Callee, status: str):
    async with calling(world, tmp_path, callee) as (w, _, _):
        found = await ended(w, await w.app.dial(ANNA, timeout=10))
        assert (found.status, found.answered_by, w.of(CallStarted)) == (status, None, [])
        await w.until(lambda: w.of(CallNotAnswered))
        (event,) = w.of(CallNotAnswered)
        assert (event.call_sid, event.outbound_id, event.status) == (found.call_sid, found.id, status)


async def test_a_machine_gets_the_message_after_its_beep_word_for_word(world: Worlds, tmp_path: Path):
    machine_ = Callee(ANNA, machine(VOICE.render(GREETING), GREETING))
    async with calling(world, tmp_path, machine_, script=TO_A_MACHINE) as (w, _, exchange):
        made = await w.app.dial(ANNA, on_machine="leave_message", message=MESSAGE)
        found = await ended(w, made)
        await machine_.over()
        await w.until(lambda: w.of(CallEnded))
    assert exchange.failures == []
    assert (found.status, found.decided, found.message_left) == ("completed", "machine", True)
    line = machine_.lines[0]
    assert (line.ended_by, line.violations) == ("agent", [])
    last = [event.turn for event in w.of(TurnEnded) if event.turn.role == "agent"][-1]
    assert (last.text, last.heard_text, last.interrupted) == (MESSAGE, MESSAGE, False)
    beep = next(each for each in line.speech if each.text == "[beep]")
    assert 0 <= last.start_ms - beep.end_ms < 2500
    assert len(recorded(line).strip(b"\xff")) >= 0.9 * last.said_ms * 8


async def test_a_machine_that_hangs_up_before_the_message_did_not_get_it(world: Worlds, tmp_path: Path):
    full = Callee(ANNA, machine(VOICE.render(GREETING), GREETING, beep=b"", pause_seconds=2, records_seconds=0))
    async with calling(world, tmp_path, full, script=TO_A_MACHINE) as (w, _, exchange):
        made = await w.app.dial(ANNA, on_machine="leave_message", message=MESSAGE)
        found = await ended(w, made)
        await w.until(lambda: w.of(CallEnded))
    assert exchange.failures == []
    assert (found.status, found.decided, found.message_left) == ("completed", "machine", False)


MENU = Menu("For cards, press one. For loans, press two.", {"1": Menu("Cards."), "2": Menu("Loans.")})
SHORT = "Anna here. I call you back."
LONG_HELLO = "Good morning, you have reached the front desk of the hotel, how may I help you?"


def scripted(*lines: str) -> str:
    """A model that answers whatever it hears; its transcripts are the lines."""
    return "".join(f'[[turn]]\nheard = "."\ncaller = "{line}"\nsay = "I see, thank you."\n' for line in lines)


async def chat(line: Line) -> None:
    await chat_a_while(line)
    await line.wait_for_silence()
    await line.hang_up()


async def chat_a_while(line: Line) -> None:
    for _ in range(3):
        await line.wait_for_silence()
        await line.say(VOICE.render("Yes, go on."), "Yes, go on.")


TABLE = {
    "a person": (lambda: person(VOICE.render("Hello?"), "Hello?", chat), ["Hello?"], None, "person"),
    "a talkative person": (lambda: person(VOICE.render(LONG_HELLO), LONG_HELLO, chat), [LONG_HELLO], None, "person"),
    "a person whom AMD takes for a machine": (
        lambda: person(VOICE.render("Hello?"), "Hello?", chat),
        ["Hello?"],
        ("machine_end_other", 7.0),
        "person",
    ),
    "a machine": (lambda: machine(VOICE.render(GREETING), GREETING), [GREETING], None, "machine"),
    "a machine of few words that AMD takes for a person": (
        lambda: machine(VOICE.render(SHORT), SHORT, pause_seconds=1.5),
        [SHORT],
        None,
        "machine",
    ),
    "a machine without a beep": (
        lambda: machine(VOICE.render(GREETING), GREETING, beep=b""),
        [GREETING],
        None,
        "machine",
    ),
    "a machine while AMD is silent": (
        lambda: machine(VOICE.render(GREETING), GREETING),
        [GREETING],
        ("unknown", 90.0),
        "machine",
    ),
    "a menu": (lambda: menu(MENU, voice=VOICE), [MENU.prompt] * 3, None, "menu"),
    "a fax": (lambda: fax(), [""], None, "fax"),
}


@pytest.mark.parametrize("policy", ["hang_up", "leave_message"])
@pytest.mark.parametrize("who", TABLE)
async def test_the_decision_for_each_kind_of_callee(world: Worlds, tmp_path: Path, who: str, policy: str):
    conduct, lines, amd, expected = TABLE[who]
    callee = Callee(ANNA, conduct(), answered_by=amd[0] if amd else None, amd_after_seconds=amd[1] if amd else 0)
    script = scripted(*lines, *["Yes, go on."] * 6)
    async with calling(world, tmp_path, callee, script=script) as (w, _, exchange):
        message = MESSAGE if policy == "leave_message" else None
        made = await w.app.dial(ANNA, on_machine=policy, message=message, time_limit=120)
        found = await ended(w, made)
        await callee.over()
        await w.until(lambda: w.of(CallEnded))
    said = [event.turn for event in w.of(TurnEnded) if event.turn.role == "agent"]
    left = [turn.heard_text for turn in said if turn.text == MESSAGE]
    print(f"{who:52} {policy:14} AMD {found.answered_by or '-':20} decided {found.decided}, left {len(left)}")
    assert exchange.failures == []
    assert (found.status, found.decided) == ("completed", expected)
    assert left == ([MESSAGE] if (expected, policy) == ("machine", "leave_message") else [])
    line = callee.lines[0]
    assert line.violations == []
    assert line.ended_by == ("agent" if expected in ("machine", "fax") else line.ended_by)
    if left and any(each.text == "[beep]" for each in line.speech):
        beep = next(each for each in line.speech if each.text == "[beep]")
        assert said[-1].start_ms >= beep.end_ms - 20
    if expected == "person":
        assert line.ended_by == "caller", "the agent must not hang up on a person"


@pytest.mark.parametrize("known", ["person", "menu"])
async def test_a_deploy_does_not_make_a_machine_of_a_person_or_a_menu(world: Worlds, tmp_path: Path, known: str):
    hello = "Hello?" if known == "person" else MENU.prompt

    async def then(line: Line) -> None:
        await chat_a_while(line)
        await line.wait_for_stream(2)
        await asyncio.sleep(5)  # the result of the detection is read again
        await line.hang_up()

    callee = Callee(
        ANNA, person(VOICE.render(hello), hello, then), answered_by="machine_end_other", amd_after_seconds=15
    )
    script = scripted(hello, *["Yes, go on."] * 6)
    async with calling(world, tmp_path, callee, script=script) as (w, _, exchange):
        made = await w.app.dial(ANNA, on_machine="hang_up", time_limit=120)
        line = await callee.called()

        async def detected() -> bool:
            found = await w.app.outbound_call(made.id)
            return found is not None and found.answered_by is not None

        async with asyncio.timeout(HANG_SECONDS):
            while not await detected():
                await asyncio.sleep(0.05)
        w.app._parts.outbound._known.clear()  # as in another process
        w.app.hand_over_now(line.call_sid, "a deploy")
        await callee.over()
        await w.until(lambda: w.of(CallEnded))
        found = await ended(w, made)
    assert exchange.failures == []
    assert (found.answered_by, found.decided) == ("machine_end_other", known)
    assert (len(line.streams), line.ended_by) == (2, "caller")


async def test_a_deploy_while_a_machine_greets_loses_no_message(world: Worlds, tmp_path: Path):
    callee = Callee(ANNA, machine(VOICE.render(GREETING), GREETING, pause_seconds=5))
    script = TO_A_MACHINE + scripted("Mm.", "Mm.")
    async with calling(world, tmp_path, callee, script=script) as (w, _, exchange):
        made = await w.app.dial(ANNA, on_machine="leave_message", message=MESSAGE)
        line = await callee.called()

        async def decided() -> bool:
            found = await w.app.outbound_call(made.id)
            return found is not None and found.decided == "machine"

        async with asyncio.timeout(HANG_SECONDS):
            while not await decided():
                await asyncio.sleep(0.05)
        w.app._parts.outbound._known.clear()  # as in another process
        w.app.hand_over_now(line.call_sid, "a deploy")
        await callee.over()
        await w.until(lambda: w.of(CallEnded))
        said = [event.turn for event in w.of(TurnEnded) if event.turn.role == "agent"]
    assert exchange.failures == []
    assert [turn.heard_text for turn in said if turn.text == MESSAGE] == [MESSAGE]
    assert (len(line.streams), line.ended_by) == (2, "agent")
    assert len(recorded(line).strip(b"\xff")) >= 0.9 * said[-1].said_ms * 8, "all of it was recorded, after the beep"
