"""The console's own files: their types, how long browsers keep them, and that nothing else is found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from phoneagent.console import files
from tests.asgi import Answer, request
from tests.console.test_api import app_with, with_token

pytestmark = pytest.mark.anyio


async def get(name: str, headers: dict[str, str] | None = None) -> Answer:
    return await request(app_with(insecure=True), "GET", files.PATH + name, headers=headers or {})


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("console.css", "text/css; charset=utf-8"),
        ("common.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
        ("vendor/uplot.js", "text/javascript; charset=utf-8"),
    ],
)
async def test_a_file_has_its_type_and_is_kept_for_good_under_its_version(name: str, media_type: str) -> None:
    answer = await get(f"{files.version()}/{name}")
    assert (answer.status, answer.headers["content-type"]) == (200, media_type)
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    for unversioned in (name, f"v000000000000/{name}"):  # a page of an older process asks for that
        other = await get(unversioned)
        assert (other.text, other.headers["cache-control"]) == (answer.text, "no-cache")
    again = await get(name, {"if-none-match": answer.headers["etag"]})
    assert (again.status, again.text) == (304, "")


@pytest.mark.parametrize(
    "name", ["", "none.js", "../api.py", "%2e%2e/api.py", "..%2fapi.py", "vendor/", "/etc/passwd", "vendor/../icon.svg"]
)
async def test_nothing_else_is_found(name: str) -> None:
    assert (await get(name)).status == 404


async def test_the_files_need_no_token_where_there_is_a_sign_in_and_exist_only_there() -> None:
    assert (await request(with_token(), "GET", files.PATH + "console.css")).status == 200
    assert (await request(app_with(), "GET", files.PATH + "console.css")).status == 404


def test_no_module_imports_what_is_not_there() -> None:
    for path in files.FOLDER.rglob("*.js"):
        for name in re.findall(r'^import .*?"(\..*?)";$', path.read_text("utf-8"), re.M):
            assert (path.parent / name).is_file(), f"{path.name} imports {name}"


def test_nothing_is_loaded_from_elsewhere() -> None:
    for path in Path(files.FOLDER).rglob("*"):
        if path.suffix in (".js", ".css") and "vendor" not in path.parts:
            found = set(re.findall(r"https?://[^\s\"'`)]+", path.read_text("utf-8"))) - {"http://www.w3.org/2000/svg"}
            assert not found, path.name
