"""Transfers that are asked for from outside: which party is chosen, with which options, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from phoneagent import Agent, Call, hang_up, transfer
from phoneagent.agent.destinations import MAX_NAME_CHARS
from phoneagent.bridge import steps
from phoneagent.console.problems import BadRequest
from phoneagent.console.transferring import Chosen, Transfer, choose, look_up

BILLING, DESK = "+12025550107", "sip:desk@pbx.example"
AGENT = Agent(
    instructions="x",
    tools=[
        hang_up,
        transfer(to={"billing": BILLING}, timeout=45, caller_id="called"),
        transfer(
            to={"front desk": DESK, "billing": "client:else"},
            name="ask",
            warm=True,
            screen=True,
            ask="Nehmen Sie an?",
            language="de-DE",
        ),
    ],
)


class Control:
    """A call that can be transferred, or not."""

    def __init__(self, problem: str | None = None) -> None:
        self.problem = problem
        self.asked: list[bool] = []

    def transfer_problem(self, *, warm: bool) -> str | None:
        self.asked.append(warm)
        return self.problem


def chosen(body: Transfer, control: Control | None = None, agent: Agent = AGENT) -> Chosen:
    call = Call(sid="CA1", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))
    given: Any = control or Control()
    call.attach(given)
    return choose(call, agent, look_up(body))


def test_a_name_is_a_party_of_the_agents_list_with_its_options() -> None:
    assert chosen(Transfer(to="billing")) == Chosen(
        steps.Transfer(to=BILLING, name="billing", timeout=45, caller_id="called"), warm=False
    )
    assert chosen(Transfer(to="front desk")) == Chosen(
        steps.Transfer(to=DESK, name="front desk", screen=True, ask="Nehmen Sie an?", language="de-DE"), warm=True
    )


def test_options_that_are_given_come_first() -> None:
    control = Control()
    body = Transfer(to="front desk", name="Anna", warm=False, screen=False, caller_id="called", timeout=9)
    words = {"ask": "Nehmen Sie an?", "language": "de-DE"}
    step = steps.Transfer(to=DESK, name="Anna", timeout=9, caller_id="called", **words)
    assert chosen(body, control) == Chosen(step, warm=False)
    assert control.asked == [False]


@pytest.mark.parametrize("to", ["+12025550199", "sip:anna@pbx.example", "client:anna"])
def test_an_address_is_taken_as_it_is(to: str) -> None:
    assert chosen(Transfer(to=to)) == Chosen(steps.Transfer(to=to, name="the other party"), warm=False)
    assert chosen(Transfer(to=to, name="Anna", warm=True)).step.name == "Anna"


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("112", "an emergency number"),
        ("+19005550199", "a premium-rate number"),
        ("+881612345678", "a satellite phone"),
        ("Billing", "write it in E.164"),
        ("https://evil.example/", "write it in E.164"),
    ],
)
def test_what_is_never_dialed_is_refused_and_not_repeated(to: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said) as caught:
        chosen(Transfer(to=to))
    assert caught.value.status == 422
    assert to not in str(caught.value)
    assert str(caught.value).endswith("the agent's own list has front desk, billing")
    with pytest.raises(BadRequest) as caught:
        chosen(Transfer(to=to), agent=Agent(instructions="x"))
    assert "list" not in str(caught.value)


@pytest.mark.parametrize("name", [" ", "a\nb", "x" * (MAX_NAME_CHARS + 1)])
def test_a_name_that_cannot_be_told_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="the body has the name") as caught:
        chosen(Transfer(to="client:anna", name=name))
    assert caught.value.status == 400


def test_the_party_is_asked_in_another_language() -> None:
    words = {"ask": "Voulez-vous répondre ?", "language": "fr-FR"}
    for to in ("front desk", BILLING):
        step = chosen(Transfer(to=to, **words)).step
        assert (step.ask, step.language) == tuple(words.values())
    english = chosen(Transfer(to="front desk", language="en-GB")).step
    assert (english.ask, english.language) == ("", "en-GB")
    for wrong in ({"language": "fr-FR"}, {"language": "French", "ask": "Oui ?"}, {"ask": "a\nb"}):
        with pytest.raises(BadRequest, match=r"ask=|language="):
            chosen(Transfer(to="front desk", **wrong))


@pytest.mark.parametrize("warm", [True, False])
def test_a_call_that_cannot_be_transferred_now(warm: bool) -> None:
    control = Control("it is being transferred already")
    with pytest.raises(BadRequest, match="cannot be transferred: it is being transferred already") as caught:
        chosen(Transfer(to="billing", warm=warm), control)
    assert (caught.value.status, control.asked) == (409, [warm])
