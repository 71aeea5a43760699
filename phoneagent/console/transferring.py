"""Transferring a call from outside: `POST /calls/{sid}/transfer`, to a party on the agent's list or to an address."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from phoneagent.agent.agent import Agent
from phoneagent.agent.call import Call
from phoneagent.agent.destinations import (
    MAX_ASK_CHARS,
    MAX_NAME_CHARS,
    MAX_RING_SECONDS,
    MIN_RING_SECONDS,
    destination,
)
from phoneagent.agent.transfer import destinations
from phoneagent.bridge import steps
from phoneagent.bridge.steps import CallerId
from phoneagent.console.body import Body
from phoneagent.console.problems import BadRequest, Conflict, Refused
from phoneagent.errors import DefinitionError
from phoneagent.protocol.dialing import MAX_ADDRESS_CHARS, refusal

UNNAMED = "the other party"

MAX_LANGUAGE_CHARS = 20
"""Longer than any language of `<Say>`."""


class Transfer(Body, frozen=True):
    """The target of a transfer: a party of the agent's `transfer` tools by its name, or an address.

    An address is a phone number in E.164, `sip:user@host` or `client:name`. The options are those of the tool; an
    omitted option has the tool's value for that party.
    """

    to: Annotated[str, Meta(min_length=1, max_length=MAX_ADDRESS_CHARS)]
    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)] | UnsetType = UNSET
    warm: bool | UnsetType = UNSET
    screen: bool | UnsetType = UNSET
    caller_id: CallerId | UnsetType = UNSET
    timeout: Annotated[int, Meta(ge=MIN_RING_SECONDS, le=MAX_RING_SECONDS)] | UnsetType = UNSET
    ask: Annotated[str, Meta(min_length=1, max_length=MAX_ASK_CHARS)] | UnsetType = UNSET
    language: Annotated[str, Meta(min_length=1, max_length=MAX_LANGUAGE_CHARS)] | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Wish:
    """A requested transfer, and why its `to` is not an address that may be dialed."""

    body: Transfer
    refused: str | None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A transfer that can be done."""

    step: steps.Transfer
    warm: bool


def look_up(body: Transfer) -> Wish:
    """Look up an address. The first time takes long, because the tables of all countries are loaded."""
    return Wish(body, refusal(body.to))


def choose(call: Call, agent: Agent, wish: Wish) -> Chosen:
    """Return the transfer for a call that `agent` has.

    Raises:
        BadRequest: there is no such party, the address is never dialed, or the call cannot be transferred now.
    """
    body, listed = wish.body, destinations(agent.tools)
    given: dict[str, Any] = {
        name: value
        for name in ("name", "screen", "caller_id", "timeout", "ask", "language")
        if (value := getattr(body, name)) is not UNSET
    }
    if "language" in given:
        given.setdefault("ask", "")  # the list's own words are in another language
    step, warm = listed.get(body.to, (None, False))
    if step is None and wish.refused is not None:
        parties = f"; the agent's own list has {', '.join(listed)}" if listed else ""
        raise Refused(f"to is not dialed: {wish.refused}{parties}")
    try:
        if step is None:
            step = steps.Transfer(to=body.to, name=UNNAMED)
        asked = replace(step, **given)
        checked = destination(
            "the body",
            asked.to,
            name=asked.name,
            timeout=asked.timeout,
            caller_id=asked.caller_id,
            screen=asked.screen,
            ask=asked.ask or None,
            language=asked.language or None,
        )
    except DefinitionError as error:
        raise BadRequest(str(error)) from None
    warm = warm if body.warm is UNSET else body.warm
    if (problem := call.transfer_problem(warm=warm)) is not None:
        raise Conflict(f"the call cannot be transferred: {problem}")
    return Chosen(checked, warm)
