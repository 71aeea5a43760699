"""What a transcriber takes, and the session that it makes."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent import DefinitionError, Hearing, Transcriber, Turns


@pytest.mark.parametrize("dial", ["+15551230000", "sip:anna@host.example;transport=tls", "client:anna"])
def test_it_takes_numbers_and_addresses(dial: str) -> None:
    assert Transcriber(dial=dial).dial == dial
    assert dial not in repr(Transcriber(dial=dial, caller_id="+15551230000"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dial": "7771230000"}, "malformed dial"),
        ({"dial": "+1777123<"}, "malformed dial"),
        ({"dial": "+17771230000\n"}, "malformed dial"),
        ({"dial": "sip:anna@host <b>"}, "malformed dial"),
        ({"dial": None}, "malformed dial"),
        ({"dial": "+19005551234"}, "cannot dial that number"),
        ({"caller_id": "anonymous"}, "malformed caller_id"),
        ({"announcement": " "}, "write text that is not empty"),
        ({"announcement": "x" * 1001}, "1001 characters"),
        ({"announcement": "\ud800"}, "write text"),
        ({"hearing": "en"}, "make it a Hearing"),
        ({"hearing": Hearing(models=())}, "without a recognizer"),
        ({"turns": None}, "make it a Turns"),
        ({"turns": Turns(detection="manual")}, "manual turns"),
        ({"turns": Turns(idle_timeout_ms=6000)}, "idle_timeout_ms"),
    ],
)
def test_it_refuses_what_would_fail_in_every_call(given: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said) as refused:
        Transcriber(**{"dial": "+17771230000", **given})
    assert "777123" not in str(refused.value)


def test_its_session_has_no_option_for_responses() -> None:
    transcriber = Transcriber(dial="+15551230000", hearing=Hearing(language="fr", noise_reduction="far_field"))
    assert transcriber.session() == {
        "type": "transcription",
        "audio": {
            "input": {
                "format": {"type": "audio/pcmu"},
                "turn_detection": {
                    "type": "server_vad",
                    "threshold": 0.5,
                    "prefix_padding_ms": 300,
                    "silence_duration_ms": 500,
                },
                "transcription": {"language": "fr"},
                "noise_reduction": {"type": "far_field"},
            }
        },
    }
