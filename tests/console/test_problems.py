"""Errors of the API as RFC 9457 has them."""

from __future__ import annotations

import json

from phoneagent.console.problems import Problem


def test_a_problem_has_the_members_of_the_standard_and_its_media_type() -> None:
    problem = Problem(503, "the disk is full", {"Retry-After": "5"})
    assert (problem.status_code, problem.headers["content-type"]) == (503, "application/problem+json")
    assert (problem.headers["retry-after"], problem.headers["cache-control"]) == ("5", "no-store")
    assert json.loads(bytes(problem.body)) == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "the disk is full",
    }
