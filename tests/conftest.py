"""Fixtures of the whole suite, and Hypothesis: the same examples on every run, no deadline for a slow machine."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
