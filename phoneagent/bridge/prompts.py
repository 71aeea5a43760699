"""What we tell the model in words, besides the agent's instructions: the responses that we ask for by ourselves."""

from __future__ import annotations

from phoneagent.bridge.responses import Ask

_NO_TOOLS = {"tool_choice": "none"}


def greeting(text: str) -> Ask:
    return Ask(
        "greeting", f"The call was just answered. Greet the caller with exactly these words: {_quote(text)}", _NO_TOOLS
    )


def exactly(text: str) -> Ask:
    return Ask("say", f"Say exactly this to the caller now, and nothing else: {_quote(text)}", _NO_TOOLS)


def filler(text: str) -> Ask:
    return Ask(
        "filler",
        "This takes a moment. Say this to the caller now, in the language you speak with each other, and nothing else: "
        + _quote(text),
        _NO_TOOLS,
    )


def goodbye() -> Ask:
    return Ask("goodbye", "The call ends now. Say a short goodbye to the caller, and nothing else.", _NO_TOOLS)


def announcement() -> Ask:
    """The longest call is about to end. Tools stay allowed: the agent may bring things to their end."""
    return Ask(
        "say",
        "This call reaches its longest duration in less than half a minute. Tell the caller so in one short sentence, "
        "and bring the conversation to its end.",
    )


def wrap_up() -> Ask:
    """The call may cost no more. Tools stay allowed: the agent may bring things to their end."""
    return Ask(
        "say",
        "This call has to end soon. Tell the caller so in one short sentence, without a reason, and bring the "
        "conversation to its end: there is time for one more answer.",
    )


def _quote(text: str) -> str:
    return '"' + text.replace('"', "'") + '"'
