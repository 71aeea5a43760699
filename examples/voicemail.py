"""Voicemail after hours: `RECORD_AUDIO=recordings phoneagent serve examples/voicemail.py`.

In the day an agent answers. At night and on weekends callers hear that the office is closed and that they are being
recorded; then they leave a message. It is recorded and transcribed, and the model notes who called, and why.
`phoneagent calls --last` shows all that, and `phoneagent calls --last --wav message.wav` lets you hear it.

With `WEBHOOK_URL` and `WEBHOOK_SECRET` your own server gets each message: `examples/back_office.py` is one.
"""

import logging
from datetime import datetime, time
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field

from phoneagent import Agent, Call, CallEnded, Hearing, PhoneApp, Recording, Turns, hang_up, tool

log = logging.getLogger("voicemail")
ZONE, OPENS, CLOSES = ZoneInfo("Europe/Paris"), time(9), time(18)
CLOSED = "This is Lumière Bicycles. We are closed now. Your message is recorded, and we call you back."


class Message(BaseModel):
    """The message that a caller has left."""

    name: str | None = None
    wish: str = Field(description="What the caller wants, in one sentence.")
    number: str | None = Field(None, description="The number to call back, as it was said, in digits.")
    urgent: bool = False


@tool
def opening_hours() -> str:
    """Tell when the shop is open."""
    return f"Monday to Friday, from {OPENS:%H:%M} to {CLOSES:%H:%M}."


desk = Agent(
    name="desk",
    instructions="You answer the phone of Lumière Bicycles, a repair shop. Be brief and friendly.",
    greeting="Lumière Bicycles, good day!",
    tools=[opening_hours, hang_up],
)
voicemail = Agent(
    name="voicemail",
    instructions=(
        "You take messages for Lumière Bicycles, which is closed. Let the caller finish. Promise nothing, and answer "
        "nothing but when it is open. If their name, their wish or a number to call back is missing, ask for it in one "
        "short sentence. When you have all three, repeat the number digit by digit, thank them, and hang up."
    ),
    greeting="Please say your name, your number and what we can do for you.",
    tools=[opening_hours, hang_up],
    recording=Recording(consent=CLOSED),
    turns=Turns(silence_duration_ms=1500),  # people think while they leave a message
    hearing=Hearing(keywords=["Lumière Bicycles"]),
    outcome=Message,
)


def is_open(now: datetime) -> bool:
    """Return whether the shop is open: from Monday to Friday, in its own time zone."""
    local = now.astimezone(ZONE)
    return local.weekday() < 5 and OPENS <= local.time() < CLOSES


def answerer(call: Call) -> Agent:
    return desk if is_open(call.started_at) else voicemail


app = PhoneApp(answerer)


@app.on(CallEnded)
async def tell_of_message(event: CallEnded) -> None:
    """Say that there is a message. In your app this is an e-mail, with a link to the recording."""
    words = [turn.text for turn in event.transcript if turn.role == "caller"]
    if any(turn.agent == voicemail.name for turn in event.transcript) and words:
        log.info("a message of %d words: phoneagent calls %s", len(" ".join(words).split()), event.call_sid)
