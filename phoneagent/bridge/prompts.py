"""The prompts of responses that we ask for by ourselves: greeting, prescribed words, filler, goodbye, limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["greeting", "say", "filler", "goodbye", "turn", "asked"]
"""Words that are prescribed, or answers: to a turn or a tool's output (`turn`), or asked for by user code (`asked`)."""

ANSWERS = frozenset({"turn", "asked"})

_NO_TOOLS = {"tool_choice": "none"}


@dataclass(slots=True)
class Wanted:
    """A response that we want. `prompt` becomes a system message before it; `options` go into `response.create`."""

    kind: Kind
    prompt: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    told: bool = False
    """The prompt is in the conversation already."""


def greeting(text: str) -> Wanted:
    return Wanted(
        "greeting", f"The call was just answered. Greet the caller with exactly these words: {_quote(text)}", _NO_TOOLS
    )


def exactly(text: str) -> Wanted:
    return Wanted("say", f"Say exactly this to the caller now, and nothing else: {_quote(text)}", _NO_TOOLS)


def filler(text: str) -> Wanted:
    return Wanted(
        "filler",
        "This takes a moment. Say this to the caller now, in the language you speak with each other, and nothing else: "
        + _quote(text),
        _NO_TOOLS,
    )


def goodbye() -> Wanted:
    return Wanted("goodbye", "The call ends now. Say a short goodbye to the caller, and nothing else.", _NO_TOOLS)


def unheard() -> Wanted:
    """The model has answered twice without a word."""
    return Wanted(
        "say",
        "The caller heard nothing of your last answer. Speak now, in the language you speak with each other: in one "
        "short sentence, say that you missed what they said, and ask them to say it again.",
        _NO_TOOLS,
    )


def go_on() -> Wanted:
    """A limit of the server's has cut the answer off. Tools stay allowed: it may have been in the middle of a call."""
    return Wanted(
        "turn",
        "Your last answer was cut off by a length limit before it was complete. Go on exactly where it stopped, "
        "without repeating what you said, and be brief.",
    )


def announcement() -> Wanted:
    """The call's maximum duration is nearly reached. Tools stay allowed: the agent may finish what it began."""
    return Wanted(
        "say",
        "This call reaches its time limit in less than half a minute. Tell the caller so in one short sentence, "
        "and bring the conversation to its end.",
    )


def wrap_up() -> Wanted:
    """The call's cost limit is reached. Tools stay allowed: the agent may finish what it began."""
    return Wanted(
        "say",
        "This call has to end soon. Tell the caller so in one short sentence, without a reason, and bring the "
        "conversation to its end: there is time for one more answer.",
    )


def _quote(text: str) -> str:
    return '"' + text.replace('"', "'") + '"'
