"""The second reading of a message that is not exactly as documented: one odd field costs that field, not the message.

A codec reads strictly, because that is fast. A message of any type that it cannot read comes here: text that represents
a number becomes one, a number becomes text, base64 gets its padding back, and an object in place of JSON text is
written as JSON. A field that still makes no sense is left out, so that its default applies.

The types of such fields are here: `JsonText`, `Base64`, `Word`, `Milliseconds`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import inspect

from phoneagent.errors import ProtocolError
from phoneagent.protocol.audio import repaired_base64

T = TypeVar("T")

_JSON_TEXT = {"json": True}
_BASE64 = {"base64": True}

JsonText: TypeAlias = Annotated[str | None, msgspec.Meta(extra=_JSON_TEXT)]
"""Text that is JSON itself."""

Base64: TypeAlias = Annotated[str, msgspec.Meta(extra=_BASE64)]
"""Audio. The strict reading accepts any text: see `audio.is_base64`."""

Word: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][\w.]*\Z")]
"""One of a few names, and never a number."""

Milliseconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e9)]

MAX_DIGITS = 18
"""No message could mean a whole number with more digits."""

UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What a strict decoder raises."""

_ODD: Any = object()  # a value that makes no sense in its field
_NOT_FINITE = re.compile(r"NaN|Infinity|[eE]\+?[0-9]{3}")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Wire(Generic[T]):
    """The messages of a wire, as `kinds` by the value of their field `tag`; error messages call one `name`.

    Every field of every kind has a default. `strict` is the first reading; if it raises one of `UNREADABLE`, or its
    result is unusable, `read` is the second.
    """

    def __init__(self, name: str, tag: str, kinds: Mapping[str, type[T]]) -> None:
        self._name = name
        self._tag = tag
        self._kinds = {value: inspect.type_info(kind) for value, kind in kinds.items()}
        self._head: Callable[[bytes | str], Any] = msgspec.json.Decoder(
            msgspec.defstruct("Head", [("tag", str)], rename={"tag": tag})
        ).decode
        self.strict: Callable[[bytes | str], T] = msgspec.json.Decoder(reduce(or_, kinds.values())).decode

    def read(self, raw: bytes | str) -> T | str:
        """Read a message, whatever its fields are; for an unknown type, return the type's name.

        Raises:
            ProtocolError: it is not JSON, or it names no type.
        """
        try:
            kind: Any = self._head(raw).tag
            if kind not in self._kinds:  # these are frequent, and nothing in them is needed
                return kind  # type: ignore[no-any-return]
        except UNREADABLE:
            pass
        message = self.parse(raw)
        kind = message.get(self._tag)
        if not isinstance(kind, str):
            raise ProtocolError(f"{self._name} ignored: its `{self._tag}` is not text")
        return _mend(message, self._kinds[kind]) if kind in self._kinds else kind

    def parse(self, raw: bytes | str) -> dict[str, Any]:
        """Read the JSON of a message. What JSON or UTF-8 does not allow inside a value costs only that value.

        Raises:
            ProtocolError: it is not JSON, not an object, or nested deeper than anything a far end sends.
        """
        try:
            text = raw if isinstance(raw, str) else raw.decode("utf-8", "replace")
            message = _loads(text)
            if _SURROGATE.search(text) is not None:  # half of a pair cannot be written anywhere
                message = json.loads(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace"))
        except ValueError:
            raise ProtocolError(f"{self._name} ignored: it is not JSON") from None
        except RecursionError:
            raise ProtocolError(f"{self._name} ignored: it is nested too deeply") from None
        if not isinstance(message, dict):
            raise ProtocolError(f"{self._name} ignored: it is not an object")
        return message


def finite_json(text: str | None) -> str | None:
    """Return JSON text with null in place of each number that JSON lacks; other text as it is."""
    if text is None or _NOT_FINITE.search(text) is None:
        return text
    try:
        return json.dumps(_loads(text), ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _loads(text: str) -> Any:
    return json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=lambda name: None)


def _whole(digits: str) -> int | None:
    return int(digits) if len(digits) <= MAX_DIGITS else None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _mend(value: Any, kind: inspect.Type, marks: dict[str, Any] | None = None) -> Any:
    """Return `value` converted to `kind`, or `_ODD` if it makes no sense as one."""
    match kind:
        case inspect.Metadata(type=inner, extra=extra):
            return _mend(value, inner, extra)
        case inspect.UnionType(types=types):  # of one type and null
            inner = next(each for each in types if not isinstance(each, inspect.NoneType))
            return None if value is None else _mend(value, inner, marks)
        case inspect.StructType(cls=cls) | inspect.DataclassType(cls=cls):
            return _object(value, kind, getattr(cls, "IN_TEXT", None))
        case inspect.ListType(item_type=item):
            return [each for each in (_mend(one, item) for one in _as(list, value)) if each is not _ODD]
        case inspect.DictType(value_type=item):
            pairs = ((key, _mend(one, item)) for key, one in _as(dict, value).items())
            return {key: each for key, each in pairs if each is not _ODD}
        case inspect.StrType(pattern=pattern):
            text = _text(value, marks or {})
            return _ODD if text is _ODD or (pattern is not None and re.search(pattern, text) is None) else text
        case inspect.IntType(ge=least, le=most) | inspect.FloatType(ge=least, le=most):
            return _number(value, kind, least, most)
        case _:
            return value


def _as(kind: type[T], value: Any) -> T:
    return value if isinstance(value, kind) else kind()


def _object(value: Any, kind: inspect.StructType | inspect.DataclassType, in_text: str | None) -> Any:
    if in_text is not None and isinstance(value, str):
        value = {in_text: value}
    if not isinstance(value, dict):
        return _ODD
    fields = {}
    for field in kind.fields:
        each = _mend(value[field.encode_name], field.type) if field.encode_name in value else _ODD
        if each is not _ODD:
            fields[field.name] = each
        elif field.required:
            return _ODD
    return kind.cls(**fields)


def _text(value: Any, marks: dict[str, Any]) -> Any:
    if marks == _JSON_TEXT and isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if marks == _BASE64:
        repaired = repaired_base64(value) if isinstance(value, str) else None
        return _ODD if repaired is None else repaired
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.0f}" if value == int(value) else repr(value)
    return value if isinstance(value, str) else _ODD


def _number(value: Any, kind: inspect.IntType | inspect.FloatType, least: float | None, most: float | None) -> Any:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return _ODD
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return _ODD
    if isinstance(kind, inspect.IntType):
        value = int(value)
    return _ODD if (least is not None and value < least) or (most is not None and value > most) else value
