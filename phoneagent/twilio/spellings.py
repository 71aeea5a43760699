"""The spellings of an address that Twilio may have signed when it requests that address.

Twilio signs a webhook's address as it is written in TwiML or in the console, with the parameters of a GET added. The
request may then arrive with its query in another order, and with other characters escaped: `@` and `:` of a SIP caller,
or an apostrophe. Every spelling here names the same resource, and its query has the same parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, permutations, product
from typing import TypeAlias
from urllib.parse import parse_qsl, quote, urlsplit

MAX_SPELLINGS = 200
MAX_PERMUTED = 4
"""Up to this many names in a query, every order of them is tried. With more, the given order and the sorted one."""
MAX_QUERY_CHARS = 8192
MAX_SEARCHED_CHARS = 100_000
"""How much text the search for the signed spelling may write: a stranger can cheaply send a URL with many spellings."""
MAX_QUERY_FIELDS = 64
"""A longer query is used as it is: strangers can send one too, and Twilio's own have 40 fields."""

_PORTS = {"https": 443, "wss": 443, "http": 80, "ws": 80}
_LEGAL = "!$'()*,/:;?@"
"""What RFC 3986 allows unescaped in a query, without the characters that have a meaning in a form."""

_Pairs: TypeAlias = Sequence[tuple[str, str]]
_UNESCAPED = ("~", ":@~", "':@~", "!'()*~", _LEGAL + "~", "*")
"""The characters to leave unescaped: Python's, those seen unescaped in signatures, JavaScript's, all legal ones, and
Java's."""


def spellings(url: str, hosts: Sequence[str] = ()) -> Iterator[str]:
    """Return the spellings of a URL, first the URL itself; `hosts` are further spellings of its host."""
    # urlsplit would drop a fragment or a line break, but what was sent must stay whole.
    scheme, _, rest = url.partition("://")
    address, mark, query = rest.partition("?")
    host, slash, path = address.partition("/")
    endings = ("", "/") if scheme in ("ws", "wss") else ("",)  # Twilio's documentation: try a trailing slash
    pages = [
        f"{scheme}://{place}{slash}{path}{ending}{mark}"
        for ending in endings
        for spelled in (host, *hosts)
        for place in _with_and_without_port(scheme, spelled)
    ]
    return islice(_distinct(page + spelling for spelling in _queries(query) for page in pages), MAX_SPELLINGS)


def _distinct(texts: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text


def plain_host(host: str) -> str:
    """Return a host in its normalized spelling."""
    return host.lower().rstrip(".")


def is_same_page(url: str, other: str) -> bool:
    """Return whether two URLs name the same page, whatever their queries and fragments."""
    one, two = urlsplit(url), urlsplit(other)
    return (one.scheme, plain_host(one.netloc), one.path) == (two.scheme, plain_host(two.netloc), two.path)


def _with_and_without_port(scheme: str, netloc: str) -> list[str]:
    """Return a host without its port, and with the port; Twilio is not consistent about it."""
    host, port = re.fullmatch(r"(.*?)(:[0-9]*)?", netloc, re.DOTALL).groups()  # type: ignore[union-attr]
    return [netloc, host, host + (port or f":{_PORTS.get(scheme, 443)}")]


def _queries(raw: str) -> Iterator[str]:
    """Return the spellings of a query, first the one that was sent: usually no other is needed."""
    yield raw
    if len(raw) > MAX_QUERY_CHARS or raw.count("&") >= MAX_QUERY_FIELDS or not (pairs := _read(raw)):
        return
    meaning, seen, chars = _by_name(pairs), {raw}, 0
    for query in _candidates(raw, pairs):
        if (chars := chars + len(query)) > MAX_SEARCHED_CHARS:
            return
        if query not in seen and _by_name(_read(query)) == meaning:
            yield query
        seen.add(query)


def _candidates(raw: str, pairs: _Pairs) -> Iterator[str]:
    for safe in _UNESCAPED:
        yield _unescape(raw, safe)
    styles = _styles("".join(name + value for name, value in pairs))
    for ordered, style in product(_orders(pairs), styles):
        yield "&".join(f"{_written(name, *style)}={_written(value, *style)}" for name, value in ordered)


def _styles(text: str) -> list[tuple[str, str, bool]]:
    """Return the different ways to write a text: characters to leave, how to write a space, whether to leave é."""
    left = dict.fromkeys("".join(char for char in safe if char in text) for safe in _UNESCAPED)
    return list(product(left, ("+", "%20") if " " in text else ("+",), (False,) if text.isascii() else (False, True)))


def _read(query: str) -> _Pairs:
    return parse_qsl(query, keep_blank_values=True)


def _by_name(pairs: _Pairs) -> dict[str, list[str]]:
    """Group the values of each name; the order between different names has no meaning."""
    groups: dict[str, list[str]] = {}
    for name, value in pairs:
        groups.setdefault(name, []).append(value)
    return groups


def _orders(pairs: _Pairs) -> Iterator[_Pairs]:
    yield pairs
    yield sorted(pairs, key=lambda pair: pair[0])
    groups = _by_name(pairs)
    if len(groups) <= MAX_PERMUTED:
        for names in permutations(groups):
            yield [(name, value) for name in names for value in groups[name]]


def _written(text: str, safe: str, space: str, non_ascii: bool) -> str:
    if non_ascii:
        written = re.sub(r"[\0-\x7f]+", lambda plain: quote(plain[0], safe=safe), text)
    else:
        written = quote(text, safe=safe)
    if "~" not in safe:  # `quote` leaves it
        written = written.replace("~", "%7E")
    return written.replace("%20", space)


def _unescape(raw: str, safe: str) -> str:
    """Undo the escapes of those characters, and no others."""
    for char in safe:
        raw = re.sub(f"%{ord(char):02x}", char, raw, flags=re.IGNORECASE)
    return raw
