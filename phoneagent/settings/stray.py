"""Mistakes around a setting: quotes around its value, a comment after it, what no key contains, or a name that is none.

phoneagent takes quotes and comments in `.env` for what they are. `docker run --env-file`, and forms in which variables
are entered, keep them as part of the value.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationInfo

from phoneagent.errors.values import is_header

_QUOTES = ('""', "''", "``", "“”", "„“", "‘’", "«»")
_COMMENT = re.compile(r"\s#")
_COMMENT_AFTER_PATH = re.compile(r"\s#\s")
_PATHS = frozenset({"database_url", "record_audio", "prices"})
"""Fields that may be a path, such as `calls #1.db`."""


def refuse_wrapping(value: Any, info: ValidationInfo) -> Any:
    """Return a value unless it is a text in quotes or with a comment after it. JSON may contain both.

    Raises:
        ValueError: what to remove; the message does not repeat the value.
    """
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        return value
    text = text.strip()
    if len(text) > 1 and text[0] + text[-1] in _QUOTES:
        raise ValueError("it is in quotes, which are part of the value here: remove them")
    comment = _COMMENT_AFTER_PATH if info.field_name in _PATHS else _COMMENT
    if not text.startswith("{") and comment.search(text):
        raise ValueError("it ends with a comment (#), which is part of the value here: move it to a line of its own")
    return value


def check_key(value: Any) -> Any:
    """Return a value that is sent in a header, unless it cannot be.

    Raises:
        ValueError: it contains a character that keys do not have; the message does not repeat it.
    """
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if text is not None and not is_header("Authorization", text):
        raise ValueError("it has a character that no key has, such as a curly quote or a line break: copy it again")
    return value


def refuse_unknown(kind: type[BaseModel], names: Collection[str]) -> None:
    """Refuse a name given in code that no setting has.

    Raises:
        TypeError: as for any other unknown argument; the message does not repeat the value.
    """
    aliases = {str(field.validation_alias).lower() for field in kind.model_fields.values() if field.validation_alias}
    known = {*kind.model_fields, *aliases}
    for name in names:
        if name.lower() not in known:
            close = get_close_matches(name.lower(), known, 1)
            hint = f"did you mean {close[0]}?" if close else "docs/settings.md lists them all"
            raise TypeError(f"{kind.__name__} has no setting {name[:60]}: {hint}")
