"""Calls and agents that several tests of the simulated phone share."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable

from twilio.request_validator import RequestValidator

from phoneagent.sim.twilio.phone import Line, Phone
from tests.sim.conftest import Agent, Leg, Seen, Server

TOKEN = "secret-token"


def signed(url: str, seen: Seen) -> bool:
    return bool(RequestValidator(TOKEN).validate(url, seen.form, seen.headers["x-twilio-signature"]))


async def close_at_once(leg: Leg) -> None:
    pass


async def called(server: Server, **options: object) -> Line:
    """A call that the server ends, or that comes to nothing."""
    async with Phone(server.url, auth_token=TOKEN, **options).dial() as line:  # type: ignore[arg-type]
        await line.wait_ended(15)
    return line


def heard_by_server(leg: Leg) -> bytes:
    return b"".join(base64.b64decode(frame["media"]["payload"]) for frame in leg.media)


def plays(audio: bytes, *marks: str, then: Callable[[Leg], Awaitable[object]] | None = None) -> Agent:
    """An agent that plays something and waits for its marks, or does something else."""

    async def agent(leg: Leg) -> None:
        await leg.play(audio)
        for name in marks:
            await leg.mark(name)
        if then is not None:
            await then(leg)
        await leg.until(lambda: len(leg.events("mark")) == len(marks) or leg.events("closed"))
        await leg.event("closed")

    return agent
