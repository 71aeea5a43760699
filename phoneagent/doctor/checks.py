"""A line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a check came out."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"
    NOTE = "note"
    """Nothing was checked: something that is good to know."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report: what was looked at, how it is, and in words what was found and what to do."""

    name: str
    status: Status
    text: str


def ok(name: str, text: str) -> Check:
    """Return a check that came out well."""
    return Check(name, Status.OK, text)


def failed(name: str, text: str) -> Check:
    """Return a check that found something wrong; the text says what to do."""
    return Check(name, Status.FAILED, text)


def skipped(name: str, text: str) -> Check:
    """Return a check that was not done; the text says why."""
    return Check(name, Status.SKIPPED, text)


def note(name: str, text: str) -> Check:
    """Return what is good to know."""
    return Check(name, Status.NOTE, text)
