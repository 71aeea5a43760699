"""Connection overrides: Twilio's options in the fragment of a webhook's URL, like `#rc=5&rp=ct,5xx,rt`.

The fragment is neither sent nor signed. An override that the documentation does not allow is a violation, and the
default applies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from phoneagent.sim.twilio.alerts import alert

_RANGES: Mapping[str, tuple[str, int, int]] = {
    "ct": ("connect_ms", 100, 10_000),
    "rt": ("read_ms", 100, 15_000),
    "tt": ("total_ms", 100, 15_000),
    "rc": ("retries", 0, 5),
}
_FAILURES = frozenset({"4xx", "5xx", "ct", "rt"})
_EDGES = re.compile("[a-z]+(-[a-z]+)*(,[a-z]+(-[a-z]+)*)*")


@dataclass(frozen=True, slots=True)
class Overrides:
    """The timeouts and retries of one request.

    Attributes:
        connect_ms: the time limit of the TCP connection and its TLS handshake, for each attempt.
        read_ms: the maximum silence of the server while Twilio waits for its answer or reads it.
        total_ms: the time limit of the whole request, with its retries and redirects.
        retries: how often the request is repeated.
        retried: after which failures: "ct" (no connection), "rt" (no whole answer), "4xx", "5xx".
    """

    connect_ms: int = 5_000
    read_ms: int = 15_000
    total_ms: int = 15_000
    retries: int = 1
    retried: frozenset[str] = frozenset({"ct"})


def read_overrides(url: str) -> tuple[Overrides, list[str]]:
    """Return the overrides in the fragment of `url`, and a violation for each that Twilio would not accept."""
    overrides, violations = Overrides(), []
    seen: set[str] = set()
    for pair in filter(None, urlsplit(url).fragment.split("&")):
        name, _, value = pair.partition("=")
        try:
            if name in seen:
                raise ValueError("it is given twice")
            overrides = replace(overrides, **_read(name, value))
        except ValueError as error:
            code = {"rp": 11243, "e": 11240}.get(name)
            detail = f"the connection override {pair[:40]!r} in a URL's fragment: {error}"
            violations.append(detail if code is None else alert(code, detail))
        seen.add(name)
    return overrides, violations


def _read(name: str, value: str) -> dict[str, Any]:
    """Return the fields that one override changes. Edge and SNI change nothing here.

    Raises:
        ValueError: Twilio has no such override, or does not accept this value.
    """
    if name in _RANGES:
        attribute, least, most = _RANGES[name]
        if not re.fullmatch("[0-9]{1,5}", value) or not least <= int(value) <= most:
            raise ValueError(f"it takes a number from {least} to {most}")
        return {attribute: int(value)}
    if name == "rp":
        wanted = frozenset(value.split(","))
        if not wanted <= _FAILURES | {"all"}:
            raise ValueError("it takes a list of 4xx, 5xx, ct, rt, or all")
        return {"retried": _FAILURES if "all" in wanted else wanted}
    if name == "sni" and value not in ("y", "n"):
        raise ValueError("it takes y or n")
    if name == "e" and not _EDGES.fullmatch(value):
        raise ValueError("it takes a list of edges, like ashburn,umatilla")
    if name not in ("sni", "e"):
        raise ValueError("there is none of that name; use ct, rt, tt, rc, rp, sni, e")
    return {}
