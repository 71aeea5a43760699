"""The lines of the doctor's report, as they are built and as `phoneagent doctor --json` writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict

import pytest

from phoneagent.doctor.checks import Check, Status, failed, note, ok, skipped


@pytest.mark.parametrize(
    ("make", "status"),
    [(ok, "ok"), (failed, "failed"), (skipped, "skipped"), (note, "note")],
    ids=["ok", "failed", "skipped", "note"],  # a function's own id has its address in it, new in each process
)
def test_each_kind_of_line_as_json(make: Callable[[str, str], Check], status: str) -> None:
    check = make("number", "its calls come here")
    assert json.loads(json.dumps(asdict(check))) == {"name": "number", "status": status, "text": "its calls come here"}


def test_no_other_kinds() -> None:
    assert {str(status) for status in Status} == {"ok", "failed", "skipped", "note"}


def test_a_line_says_what_was_found_for_good() -> None:
    check = failed("model", "no key: set OPENAI_API_KEY")
    with pytest.raises(FrozenInstanceError):
        check.status = Status.OK  # type: ignore[misc]
    assert check == Check("model", Status.FAILED, "no key: set OPENAI_API_KEY")
    assert check != skipped("model", "no key: set OPENAI_API_KEY")
