"""The prompts of responses that we ask for by ourselves: greeting, prescribed words, filler, goodbye, limits."""

from __future__ import annotations

from phoneagent.bridge.responses import Wanted

_NO_TOOLS = {"tool_choice": "none"}


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
