"""Hypothesis: the same examples on every run, and no deadline for a slow machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")
