"""The patience of tests: a deadline that only ends a test that hangs, however long a busy machine takes."""

from __future__ import annotations

HANG_SECONDS = 120.0
"""How long a test waits for what must happen before it is said to hang. No test measures anything with it."""
