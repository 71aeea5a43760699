"""The destinations of transfers: which addresses are accepted, and with which options."""

from __future__ import annotations

import re
from typing import get_args

from phoneagent.bridge.steps import CallerId, Transfer
from phoneagent.errors import DefinitionError
from phoneagent.protocol.dialing import refusal

MAX_RING_SECONDS = 120
"""The caller waits that long, so more is no use; Twilio's own limit is 600."""

MIN_RING_SECONDS = 5

MAX_NAME_CHARS = 64

NUMBER_DIGITS = 7
"""A name with this many digits is a phone number."""

MAX_ASK_CHARS = 300

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})+")
"""Twilio's `<Say>` accepts only languages with a region: de-DE, cmn-Hans-CN."""


def destination(
    owner: str,
    to: object,
    *,
    name: object,
    timeout: object,
    caller_id: object,
    screen: object,
    ask: object = None,
    language: object = None,
) -> Transfer:
    """Return a transfer to the address `to`, for the party named `name`.

    Raises:
        DefinitionError: it must not be dialed, or an option cannot be used. The message begins with `owner`, and does
            not repeat the address.
    """
    if not isinstance(name, str) or not 0 < len(name.strip()) <= MAX_NAME_CHARS or not name.isprintable():
        raise DefinitionError(f"{owner} has the name {name!r:.80}: write 1 to {MAX_NAME_CHARS} characters on one line")
    if sum(map(str.isdigit, name)) >= NUMBER_DIGITS:
        raise DefinitionError(f"{owner} has a number as a party's name: names are logged, so write one like billing")
    if not isinstance(to, str):
        raise DefinitionError(f"{owner} has {type(to).__name__} as the address of {name!r}: write text, like a number")
    if (why := refusal(to)) is not None:
        raise DefinitionError(f"{owner} cannot transfer to {name!r}: {why}")
    if type(timeout) is not int or not MIN_RING_SECONDS <= timeout <= MAX_RING_SECONDS:
        raise DefinitionError(
            f"{owner} has timeout={timeout!r}: write whole seconds from {MIN_RING_SECONDS} to {MAX_RING_SECONDS}"
        )
    if caller_id == "caller":
        shown: CallerId = "caller"
    elif caller_id == "called":
        shown = "called"
    else:
        choices = " or ".join(f'"{each}"' for each in get_args(CallerId))
        raise DefinitionError(f"{owner} has caller_id={caller_id!r}: choose {choices}")
    if not isinstance(screen, bool):
        raise DefinitionError(f"{owner} has screen={screen!r}: write True or False")
    words, spoken = _asked(owner, ask, language)
    return Transfer(
        to=to, name=name.strip(), timeout=timeout, caller_id=shown, screen=screen, ask=words, language=spoken
    )


def _asked(owner: str, ask: object, language: object) -> tuple[str, str]:
    """Return the words with which a party is asked to take a call, and their language; "" for what is not given."""
    if ask is not None and not (isinstance(ask, str) and 0 < len(ask.strip()) <= MAX_ASK_CHARS and ask.isprintable()):
        raise DefinitionError(f"{owner} has ask={ask!r:.80}: write 1 to {MAX_ASK_CHARS} characters on one line")
    if language is not None and not (isinstance(language, str) and _LANGUAGE.fullmatch(language)):
        raise DefinitionError(f'{owner} has language={language!r:.80}: write one of <Say>, like "de-DE"')
    if language is not None and ask is None and not language.startswith("en-"):
        raise DefinitionError(f"{owner} has language={language!r} and no ask=: write in it how to press the key 1")
    return "" if ask is None else str(ask).strip(), "" if language is None else language
