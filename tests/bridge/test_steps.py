"""Next steps: frozen, and without a number or what was said in what is printed of them."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from phoneagent.bridge.steps import NextStep, Resume, Transfer


@pytest.mark.parametrize("kind", get_args(NextStep))
def test_a_step_does_not_change(kind: type) -> None:
    step = kind(stream_sid="MZ1")
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.stream_sid = "MZ2"


def test_neither_a_number_nor_words_are_printed() -> None:
    assert "5550100" not in repr(Transfer(to="+15550100001", name="billing"))
    assert "busy" not in repr(Resume(returned="Billing was busy."))
