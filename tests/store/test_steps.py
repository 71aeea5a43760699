"""Next steps, to rows and back."""

from __future__ import annotations

from typing import Any

import pytest

from phoneagent.bridge.steps import FallBack, HangUp, NextStep, Resume, Transfer
from phoneagent.store.steps import from_row, to_row


@pytest.mark.parametrize(
    ("step", "row"),
    [
        (HangUp(stream_sid="MZ1"), ("hang_up", {"stream_sid": "MZ1"})),
        (FallBack(stream_sid="MZ1"), ("fall_back", {"stream_sid": "MZ1"})),
        (
            Resume(stream_sid="MZ1", pending="answer", broke=False),
            ("resume", {"stream_sid": "MZ1", "pending": "answer", "broke": False}),
        ),
        (
            Resume(stream_sid="MZ1", pending="answer", broke=False, returned="Billing is busy."),
            ("resume", {"stream_sid": "MZ1", "pending": "answer", "broke": False, "returned": "Billing is busy."}),
        ),
        (
            Transfer(
                stream_sid="MZ1",
                to="sip:a@b",
                name="desk",
                timeout=9,
                caller_id="called",
                screen=True,
                ask="Eins.",
                language="de-DE",
            ),
            (
                "transfer",
                {
                    "stream_sid": "MZ1",
                    "to": "sip:a@b",
                    "name": "desk",
                    "timeout": 9,
                    "caller_id": "called",
                    "screen": True,
                    "conference": "",
                    "ask": "Eins.",
                    "language": "de-DE",
                },
            ),
        ),
    ],
)
def test_a_step_comes_back_as_it_was(step: NextStep, row: tuple[str, dict[str, Any]]) -> None:
    assert to_row(step) == row
    assert from_row(*row) == step


@pytest.mark.parametrize(
    ("data", "step"),
    [
        ({}, Resume(stream_sid="", pending="unknown", broke=True)),
        ({"pending": ["an answer"], "stream_sid": None}, Resume(stream_sid="", pending="unknown", broke=True)),
        ({"pending": "a poem", "broke": False, "more": 1}, Resume(stream_sid="", pending="unknown", broke=False)),
    ],
)
def test_what_is_missing_or_strange_is_unknown(data: dict[str, Any], step: NextStep) -> None:
    assert from_row("resume", data) == step


def test_a_kind_of_another_version_hangs_up() -> None:
    assert from_row("whisper", {"stream_sid": "MZ1", "to": "+15550100001"}) == HangUp(stream_sid="MZ1")


def test_a_transfer_of_another_version_has_the_defaults_of_this_one() -> None:
    strange = {"to": None, "name": 7, "timeout": "soon", "caller_id": "mine", "more": 1}
    assert from_row("transfer", strange) == Transfer(name="7")
