"""The page's files, read once from `page/`: no build step, nothing from another host."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

FILES: Final = {
    "/": ("index.html", "text/html"),
    "/learning": ("learning.html", "text/html"),
    "/page/common.js": ("common.js", "text/javascript"),
    "/page/learning.js": ("learning.js", "text/javascript"),
    "/page/page.js": ("page.js", "text/javascript"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}


def routes() -> Sequence[HTTPRouteHandler]:
    """One handler per file; a browser that has the file is told so by its tag."""
    return [_route(path, name, media_type) for path, (name, media_type) in FILES.items()]


def _route(path: str, name: str, media_type: str) -> HTTPRouteHandler:
    content = (files(__package__ or "services.gateway") / "page" / name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}

    @get(path, include_in_schema=False, name=name, sync_to_thread=False)
    def serve(request: Request[Any, Any, Any]) -> Response[bytes]:
        if request.headers.get("if-none-match") == tag:
            return Response(b"", status_code=304, headers=headers, media_type=media_type)
        return Response(content, headers=headers, media_type=media_type)

    return serve
