"""Playing a recording to a caller from outside: `POST /calls/{sid}/play`. The body contains it; no URL is fetched."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from phoneagent.agent.clip import Clip
from phoneagent.console.body import Body
from phoneagent.console.problems import BadRequest
from phoneagent.errors import DefinitionError

MAX_BODY_BYTES = 960 * 1024
"""The largest body: 46 s of 16 bits at 8 kHz, or 92 s of µ-law, in base64."""

EXAMPLE = {
    "wav": "UklGRioAAABXQVZFZm10IBAAAAAHAAEAQB8AAEAfAAABAAgAZGF0YQYAAAD//////38=",
    "text": "All our lines are busy.",
}
"""An example body with a very short file."""

MAX_TEXT_CHARS = 4000
MAX_NAME_CHARS = 64


class Play(Body, frozen=True):
    """A WAV file in base64, mono or stereo, and its words.

    The model and the transcript get the `text`, or the `name` if there is none. Nothing stops it unless it is
    `interruptible`.
    """

    wav: Annotated[bytes, Meta(min_length=1)]
    text: Annotated[str, Meta(max_length=MAX_TEXT_CHARS)] = ""
    name: Annotated[str, Meta(max_length=MAX_NAME_CHARS)] = ""
    interruptible: bool = True


def make_clip(body: Play) -> tuple[Clip, bool]:
    """Return the clip, and whether it is interruptible. A file at another rate takes a while: run this in a thread.

    Raises:
        BadRequest: it is not a WAV file that can be played, or lasts too long.
    """
    try:
        return Clip(body.wav, text=body.text, name=body.name), body.interruptible
    except DefinitionError as error:
        raise BadRequest(str(error)) from None
