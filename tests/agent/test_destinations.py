"""Destinations of transfers: what is refused where it is written."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.agent.destinations import destination
from phoneagent.bridge.steps import Transfer
from phoneagent.errors import DefinitionError

DEFAULTS: dict[str, Any] = {"name": "billing", "timeout": 20, "caller_id": "caller", "screen": False}


@pytest.mark.parametrize("to", ["+12025550107", "sip:desk@pbx.example", "client:anna"])
def test_a_destination_that_can_be_dialed(to: str) -> None:
    assert destination("x", to, **DEFAULTS) == Transfer(to=to, name="billing")
    assert to not in repr(destination("x", to, **DEFAULTS))


@pytest.mark.parametrize(
    "to",
    ["911", "+1911", "112", "+19005550199", "+8816123456789", "12025550107", "+1202555", "front desk", "", "sip:desk"],
)
def test_a_number_that_must_not_be_dialed(to: str) -> None:
    with pytest.raises(DefinitionError, match="cannot transfer to 'billing'") as caught:
        destination("transfer 'x'", to, **DEFAULTS)
    assert not to or to not in str(caught.value).replace("like +15550100001", "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "write 1 to 64 characters"),
        ({"name": "a\nb"}, "on one line"),
        ({"name": 7}, "has the name 7"),
        ({"name": "+1 202 555 0107"}, "names are logged, so write one like billing"),
        ({"timeout": 3}, "timeout=3"),
        ({"timeout": 20.5}, "timeout=20.5"),
        ({"timeout": True}, "timeout=True"),
        ({"timeout": 600}, "from 5 to 120"),
        ({"caller_id": "+15550100001"}, 'choose "caller" or "called"'),
        ({"screen": 1}, "screen=1"),
        ({"ask": ""}, "write 1 to 300 characters"),
        ({"ask": "a\nb"}, "on one line"),
        ({"ask": "x" * 301}, "write 1 to 300 characters"),
        ({"ask": "Eins.", "language": "de"}, "language='de': write one of <Say>, like \"de-DE\""),
        ({"ask": "Eins.", "language": "<b>"}, "write one of <Say>"),
        ({"language": "de-DE"}, "no ask=: write in it how to press the key 1"),
    ],
)
def test_an_option_that_cannot_be_used(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        destination("x", "+12025550107", **DEFAULTS | changes)


@pytest.mark.parametrize(
    ("options", "ask", "language"),
    [
        ({}, "", ""),
        ({"ask": " Eins. ", "language": "de-DE"}, "Eins.", "de-DE"),
        ({"ask": "Take it with 1."}, "Take it with 1.", ""),
        ({"language": "en-GB"}, "", "en-GB"),
    ],
)
def test_what_the_party_hears(options: dict[str, Any], ask: str, language: str) -> None:
    made = destination("x", "+12025550107", **DEFAULTS | options)
    assert (made.ask, made.language) == (ask, language)


def test_an_address_is_text() -> None:
    with pytest.raises(DefinitionError, match="int as the address"):
        destination("x", 12025550107, **DEFAULTS)
