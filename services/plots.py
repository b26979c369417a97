"""Reports as one HTML file each, with their plots inside."""

from __future__ import annotations

import io
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def page(title: str, body: str) -> str:
    """An HTML document; `body` is markup, `title` is not."""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        "<style>body{font:16px/1.5 system-ui;max-width:60rem;margin:3rem auto;padding:0 1rem;color:#223}"
        "svg{max-width:100%;height:auto}td{padding:.15rem 1.5rem .15rem 0}"
        f"</style>{body}</html>"
    )


def svg(figure: Figure) -> str:
    """A figure as an element of a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
