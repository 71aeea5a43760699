"""Remedies for Python's own errors about the use of phoneagent: wrong arguments, and type hints of other languages."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import phoneagent
from phoneagent.errors.values import python_type

_UNEXPECTED = re.compile(r"([\w.]+)\(\) got an unexpected keyword argument '(\w+)'")
_POSITIONAL = re.compile(r"([\w.]+)\(\) takes .*positional arguments? but .*given")
_HINT = r"(?::|->|[\[|,])\s*{}\b"
_ELSEWHERE = {
    "model": "set OPENAI_MODEL, or give PhoneApp an endpoint=",
    "api_key": "set OPENAI_API_KEY, or give PhoneApp an endpoint=",
}
"""What other frameworks give an agent."""

_OTHER_NAMES = {"prompt": "instructions", "system_prompt": "instructions", "functions": "tools"}


def argument_remedy(error: TypeError, names: Mapping[str, Any]) -> str | None:
    """Return Python's words about a wrong argument with a remedy; None if phoneagent has no such class or function.

    `names` are those known where it was raised: a class of the user's may have the name of one of ours.
    """
    words = str(error)
    unexpected, positional = _UNEXPECTED.match(words), _POSITIONAL.match(words)
    found = unexpected or positional
    parameters = None if found is None else _parameters_of(found[1], names)
    if found is None or parameters is None:
        return None
    by_name = [each for each in parameters if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)]
    known = [each.name for each in by_name]
    if unexpected is None:
        only = [each for each in by_name if each.kind is each.KEYWORD_ONLY]
        first = next((each.name for each in only if each.default is each.empty), only[0].name if only else None)
        return None if first is None else f"TypeError: {words}: write the arguments' names, like {first}=…"
    wanted = unexpected[2]
    near = get_close_matches(wanted, known, n=1)
    if wanted in _OTHER_NAMES and _OTHER_NAMES[wanted] in known:
        near = [_OTHER_NAMES[wanted]]
    if wanted in _ELSEWHERE and found[1].startswith(("Agent.", "PhoneApp.")):
        remedy = _ELSEWHERE[wanted]
    else:
        remedy = f"did you mean {near[0]}=?" if near else f"it takes {', '.join(known)}"
    return f"TypeError: {unexpected[0]}: {remedy}"  # newer Pythons suggest a name too


def _parameters_of(called: str, names: Mapping[str, Any]) -> list[inspect.Parameter] | None:
    """Return the parameters of a public class, a method of one or a function, by its name in Python's error."""
    name, *path = called.removesuffix(".__init__").split(".")
    if name not in phoneagent.__all__:
        return None
    found = getattr(phoneagent, name)
    if names.get(name, found) is not found:
        return None
    try:
        for each in path:
            found = getattr(found, each)
        return list(inspect.signature(found).parameters.values())
    except (AttributeError, TypeError, ValueError):
        return None


def hint_remedy(error: NameError, line: str) -> str | None:
    """Return the words about a type of another language in a type hint; None if this is another mistake.

    Python's own words may suggest to import it.
    """
    kind = python_type(error.name or "")
    if kind is None or re.search(_HINT.format(error.name), line) is None:
        return None
    return f"NameError: name {error.name!r} is not defined: as a type hint, write {kind}"
