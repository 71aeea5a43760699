"""Caller IDs: the address of a call's other party, in one normalized form.

The telephone network writes a party in many ways: `+1 555 010 0009`, `0015550100009`, `sip:+15550100009@host:5061`,
`tel:`, `whatsapp:`, `client:anna`. It writes a withheld number as a word, as that word on a phone's keys, or as a
placeholder address. Only `caller_id` reads these forms. Lists, shares, pseudonyms, logs and records compare what it
returns.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote, unquote

MAX_CHARS = 256
"""The maximum length of a caller ID. A longer address counts as withheld."""

CALLERS = re.compile(r"\+(?:[1-9][0-9]{6,14}|(?:[1-9][0-9]{0,13})?\*)", re.ASCII)
"""A phone number in E.164, or a prefix and an asterisk. `+*` matches every number, but no withheld one."""

_WITHHELD = ("anonymous", "blocked", "private", "restricted", "unavailable", "unknown", "withheld")
_KEYS = str.maketrans("abcdefghijklmnopqrstuvwxyz", "22233344455566677778889999")
_NOBODY = frozenset(
    {
        *(
            f"{before}{word}{behind}"
            for before in ("", "caller", "callerid", "id", "number")
            for word in (*_WITHHELD, "anon", "hidden", "no", "notavailable", "suppressed", "unidentified")
            for behind in ("", "caller", "callerid", "id", "name", "number", "user")
        ),
        *(word.translate(_KEYS) for word in _WITHHELD),  # some carriers spell it on a phone's keys; none is a number
        *("id", "na", "none", "null", "outofarea", "undefined"),
        "asterisk",  # what that exchange writes if it has no number
    }
)
_ZEROS = re.compile(r"0+|10{7,}", re.ASCII)
"""A placeholder that exchanges write if they have no number; 100 and 1000 are extensions."""

_SAFE = "!$&'()*+,/=?~"
"""Characters that the user of a SIP address may contain unescaped, besides letters and digits (RFC 3261)."""

_IN_BRACKETS = re.compile(r"<([^<>]*)>")
_SCHEME = re.compile(r"([a-z][a-z0-9.-]{1,19}):(?://)?(?=\S)", re.ASCII | re.IGNORECASE)
_EXTENSION = re.compile(r"(?:[;,]|ext|x).*", re.DOTALL | re.IGNORECASE)
_SEPARATORS = re.compile(r"[\s().\-/\u2010-\u2015\u2212]+")
_SHORT = re.compile(r"\+?[0-9*#]{2,15}", re.ASCII)
_INTERNATIONAL = re.compile(
    r"""(?: \+ (?=[1-9][0-9]{6,14}$)
          | 00 (?:11)? (?=[1-9][0-9]{7,14}$)
          | 011 (?=[1-9][0-9]{9,14}$)  # shorter ones are national numbers of cities whose code begins with 11
          | (?=1[2-9][0-9]{9}$)
          | (?=[2-9][0-9]{10,14}$)  # shorter ones may be national numbers
        ) ([0-9]+)""",
    re.ASCII | re.VERBOSE,
)


def caller_id(address: str | None) -> str | None:
    """Return the caller ID of an address, or None if the address is withheld.

    A phone number is returned in E.164, whatever its form was. Another address is returned without port and parameters,
    like `sip:anna@host` or `client:anna`. Digits that are not an E.164 number, like a short code, are returned as they
    are. A caller ID is its own caller ID.
    """
    text = _legible(address or "")
    if bracketed := _IN_BRACKETS.findall(text):  # "a display name" <sip:…>
        text = bracketed[-1].strip()
    scheme, rest = "", text
    if match := _SCHEME.match(text):
        scheme, rest = match[1].lower(), text[match.end() :]
    if scheme in ("sip", "sips") or (not scheme and "@" in rest):
        found = _sip(rest)
    elif scheme in ("", "tel", "callto"):
        found = _telephone(unquote(rest))
    else:
        found = _named(scheme, rest)
    return None if found is None or len(found) > MAX_CHARS else found


def _legible(text: str) -> str:
    """Return text in ASCII digits and plain letters, without invisible characters."""
    if text.isascii() and text.isprintable():
        return text.strip()
    text = text.encode("utf-8", "replace").decode()
    text = "".join(char for char in text if unicodedata.category(char) not in ("Cc", "Cf", "Cn", "Cs"))
    text = unicodedata.normalize("NFKC", text)
    return "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in text).strip()


def _sip(rest: str) -> str | None:
    """Return the caller ID of a SIP address without its scheme."""
    userinfo, _, location = rest.partition("@")
    user = unquote(re.split("[:;]", userinfo)[0])
    host = re.split(r"[;?/]", location)[0]
    host = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    host = host.strip().lower().rstrip(".")
    if _is_nobody(user) or host.rpartition(".")[2] == "invalid":  # RFC 3323: anonymous@anonymous.invalid
        return None
    if (number := _e164(user)) is not None:
        return number
    return f"sip:{quote(user, safe=_SAFE)}@{host}" if host else None


def _telephone(rest: str) -> str | None:
    """Return the caller ID of a number in any form, or None for words."""
    if _is_nobody(rest):
        return None
    if (number := _e164(rest)) is not None:
        return number
    digits = _compact(rest)
    return digits if _SHORT.fullmatch(digits) and not _is_nobody(digits) else None


def _named(scheme: str, name: str) -> str | None:
    """Return the caller ID of a party on another network, such as WhatsApp or Twilio's client."""
    if _is_nobody(name):
        return None
    # A client's name may be digits without being a number.
    number = _e164(name) if name.startswith("+") or scheme == "whatsapp" else None
    return number or f"{scheme}:{name}"


def _is_nobody(user: str) -> bool:
    word = re.sub(r"[\W_]+", "", user).casefold()
    return not word or word in _NOBODY or _ZEROS.fullmatch(word) is not None


def _e164(text: str) -> str | None:
    match = _INTERNATIONAL.fullmatch(_compact(text))
    return None if match is None else f"+{match[1]}"


def _compact(text: str) -> str:
    """Return a number without separators, extension or the zero in "+44 (0)20"."""
    text = _EXTENSION.sub("", text)
    return _SEPARATORS.sub("", text.replace("(0)", "") if text.startswith("+") else text)
