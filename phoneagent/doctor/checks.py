"""Checks: the lines of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """The result of a check."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"
    NOTE = "note"
    """Nothing was checked: the line is for information."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report: what was checked, the result, and what was found and what to do, in words."""

    name: str
    status: Status
    text: str


def ok(name: str, text: str) -> Check:
    """Return a check that passed."""
    return Check(name, Status.OK, text)


def failed(name: str, text: str) -> Check:
    """Return a check that failed; the text says what to do."""
    return Check(name, Status.FAILED, text)


def skipped(name: str, text: str) -> Check:
    """Return a check that was skipped; the text says why."""
    return Check(name, Status.SKIPPED, text)


def note(name: str, text: str) -> Check:
    """Return a line for information."""
    return Check(name, Status.NOTE, text)
