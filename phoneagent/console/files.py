"""The console's own files as browsers get them: style, scripts and icon."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from phoneagent.console.problems import Problem

FOLDER = Path(__file__).parent / "static"
PATH = "/console/static/"

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".wav": "audio/wav",
}
"""The kinds of files. Browsers run a script only with the right type, which the system's own table may not have."""

_FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    tag: str


@cache
def _files() -> dict[str, _File]:
    """Read the files, once per process."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in TYPES:
            content = path.read_bytes()
            tag = hashlib.sha256(content).hexdigest()[:16]
            found[path.relative_to(FOLDER).as_posix()] = _File(content, TYPES[path.suffix], f'"{tag}"')
    return found


@cache
def version() -> str:
    """Return a name for the current content of all files. It is in their paths, so browsers may cache them forever."""
    together = "".join(f"{name}{each.tag}" for name, each in _files().items())
    return "v" + hashlib.sha256(together.encode()).hexdigest()[:12]


async def send_file(request: Request) -> Response:
    """Answer with a file: `/console/static/{version}/{name}`, or without the version if it may change."""
    name: str = request.path_params["name"]
    first, _, rest = name.partition("/")
    is_versioned = first.startswith("v") and len(first) == len(version()) and rest != ""
    found = _files().get(rest if is_versioned else name)
    if found is None:
        return Problem(404, "the console has no such file")
    headers = {
        "Cache-Control": _FOREVER if first == version() else "no-cache",
        "ETag": found.tag,
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    if found.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.media_type, headers=headers)
