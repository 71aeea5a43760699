"""What the package offers is what it says it offers."""

from __future__ import annotations

import inspect

import pytest

import phoneagent
import phoneagent.sim


@pytest.mark.parametrize("package", [phoneagent, phoneagent.sim], ids=lambda package: package.__name__)
def test_all_is_sorted_complete_and_documented(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert names == sorted(names)
    assert len(names) == len(set(names))
    for name in names:
        thing = getattr(package, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name} has no docstring"
