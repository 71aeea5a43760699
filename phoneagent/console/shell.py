"""The shell of the console's pages: the frame around each, and the headers that protect the browser.

    return page(request, "Phone", body_html, module="phone.js", styles=("phone.css",))

`body_html` is already HTML: text from outside has gone through `html.escape`. The module and the styles are files in
`static/`. No page has inline scripts or styles: the policy forbids both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path
from string import Template

from starlette.requests import Request
from starlette.responses import HTMLResponse

from phoneagent.console.files import PATH, version
from phoneagent.console.sessions import COOKIE

TEMPLATES = Path(__file__).parent / "templates"

NAVIGATION = (
    ("/console", "Live"),
    ("/console/past", "Past calls"),
    ("/console/phone", "Phone"),
    ("/console/setup", "Setup"),
)

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "media-src 'self' blob:; worker-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
}


def page(
    request: Request,
    title: str,
    body_html: str,
    *,
    module: str | None = None,
    styles: Sequence[str] = (),
    status: int = 200,
) -> HTMLResponse:
    """Return a page of the console: the shell with `body_html` in its `<main>`.

    Args:
        request: the request to answer. The navigation entry with its path is marked.
        title: the name of the page, in the title bar.
        body_html: the content, as HTML.
        module: the page's script, an ES module in `static/`.
        styles: the page's own style sheets in `static/`, after `console.css`.
        status: the status of the response.
    """
    root = root_of(request)
    path = request.scope["path"].removeprefix(root)
    files = f"{escape(root)}{PATH}{version()}/"
    text = template("shell.html").substitute(
        title=escape(title),
        base=escape(root),
        files=files,
        styles="".join(f'<link rel="stylesheet" href="{files}{each}">' for each in styles),
        module="" if module is None else f'<script type="module" src="{files}{module}"></script>',
        navigation="".join(_entry(root, path, *each) for each in NAVIGATION),
        sign_out=_SIGN_OUT.format(base=escape(root)) if COOKIE in request.cookies else "",
        body=body_html,
    )
    return HTMLResponse(text, status, HEADERS)


def root_of(request: Request) -> str:
    """Return the path under which the app is mounted, the prefix of its own paths."""
    root: str = request.scope.get("root_path", "")
    return root


@cache
def template(name: str) -> Template:
    """Return a template from the folder `templates`. Its values must be HTML."""
    return Template((TEMPLATES / name).read_text("utf-8"))


def _entry(root: str, path: str, place: str, label: str) -> str:
    is_here = path == place or (path.startswith(f"{place}/") and place != "/console")
    current = ' aria-current="page"' if is_here else ""
    return f'<a href="{escape(root)}{place}"{current}>{label}</a>'


_SIGN_OUT = (
    '<form method="post" action="{base}/console/sign-out"><button class="quiet" type="submit">Sign out</button></form>'
)
