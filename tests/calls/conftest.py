"""What tests of the calls share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from phoneagent.calls import opening
from tests.calls.office import Rig


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rig]:
    """Return what makes a rig: the endpoints of the latest one are asked instead of servers."""

    def make(*args: Any, **options: Any) -> Rig:
        made = Rig(*args, **options)
        monkeypatch.setattr(opening, "open_session", made.open_session)
        return made

    return make
