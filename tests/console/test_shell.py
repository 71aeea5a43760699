"""The shell of the pages: its policy, its navigation, and that it works under a mount."""

from __future__ import annotations

import re

import pytest
from starlette.requests import Request

from phoneagent.console.shell import NAVIGATION, TEMPLATES, page
from tests.asgi import scope


def a_request(path: str = "/console", **options: str) -> Request:
    return Request({**scope("http", path), "method": "GET", **options})


def test_a_page_names_its_script_and_its_styles() -> None:
    text = bytes(page(a_request(), "A & B", "<p>x</p>", module="live.js", styles=("calls.css",)).body).decode()
    assert "<title>A &amp; B · phoneagent</title>" in text
    assert re.search(r'<script type="module" src="/console/static/v[0-9a-f]{12}/live.js"></script>', text)
    assert re.search(r'<link rel="stylesheet" href="/console/static/v[0-9a-f]{12}/calls.css">', text)
    assert "Sign out" not in text


def test_the_policy_forbids_what_no_page_needs() -> None:
    headers = page(a_request(), "x", "").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "same-origin")
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_no_template_has_what_the_policy_forbids(template: object) -> None:
    text = template.read_text("utf-8")  # type: ignore[attr-defined]
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)
    for script in re.findall(r"<script.*?>.*?</script>", text, re.S):
        assert re.fullmatch(r'<script[^>]* src="[^"]+"></script>', script)


@pytest.mark.parametrize(("path", "label"), NAVIGATION)
def test_the_entry_of_the_page_is_marked(path: str, label: str) -> None:
    text = bytes(page(a_request(path), "x", "").body).decode()
    assert re.findall(r'<a href="([^"]+)" aria-current="page">(.*?)</a>', text) == [(path, label)]
    assert 'aria-current="page"' not in bytes(page(a_request("/console/calls/CA1"), "x", "").body).decode()


def test_under_a_mount_all_paths_begin_with_it() -> None:
    text = bytes(page(a_request("/phone/console", root_path="/phone"), "x", "", module="live.js").body).decode()
    places = re.findall(r'(?:href|src|data-base)="([^"#]*)"', text)
    assert places
    assert all(place.startswith("/phone") for place in places)
    assert '<a href="/phone/console" aria-current="page">Live</a>' in text


def test_a_mount_cannot_write_html() -> None:
    text = bytes(page(a_request('/"><script>/console', root_path='/"><script>'), "x", "").body).decode()
    assert '"><script>' not in text
