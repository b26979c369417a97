"""HTML to text, only where there is markup; blocks become lines, so that `boilerplate` can drop whole ones."""

from __future__ import annotations

import html
import re
from collections import Counter
from typing import Final

from selectolax.lexbor import LexborHTMLParser, LexborNode

from services.clean.words import word_set

ROUNDS: Final = 3
"""Feeds escape markup inside markup; twice is common, three times was seen, more is an attack."""

# Known elements only, closed and with attributes or none: `<AAPL.O>` in a wire story, `<https://…>` in a mail and
# `P/E <a third of peers` are text.
_TAG: Final = re.compile(
    r"<(?:!--|!doctype(?=[\s>])|\?xml(?=\s)|/?(?:a|abbr|amp-img|article|aside|b|blockquote|body|br|button|caption|center|code|dd|del|div"
    r"|dl|dt|em|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|item|li|link|main"
    r"|meta|nav|noscript|object|ol|p|pre|s|script|section|small|source|span|strong|style|sub|sup|svg|table|tbody|td|th"
    r"|thead|time|title|tr|u|ul|video)(?=\s*/?>|\s+[\w-]{1,30}\s*/?>|[\s/][^<>=]{0,200}=[^<>]*>))",
    re.IGNORECASE,
)
_ANY_TAG: Final = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]{0,15})[^<>]{0,4000}>")
_ENTITY: Final = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});")

MAX_DEPTH: Final = 500
"""Real pages stay below 50; the parser's time is quadratic in the depth (40,000 open elements take it two seconds)."""

_UNSEEN: Final = word_set("script style noscript template iframe svg object video select guid del")
_CHROME: Final = word_set("nav footer aside button")
_CHROME_CLASSES: Final = re.compile(r"(?:^|\s)(?:related|share)(?:\s|$)|cookie|newsletter")
_BLOCKS: Final = word_set(
    "address article aside blockquote body br caption center dd div dl dt figcaption figure footer form h1 h2 h3 h4"
    " h5 h6 description head header hr html item li link main nav ol p pre section table tbody thead title tr ul"
)
_CELLS: Final = frozenset(("td", "th"))
_UNCLOSED: Final = word_set("area br col dd dt hr img input li link meta option p source tbody td th thead tr")
"""Elements that are often left open and don't nest by it."""


def has_markup(text: str) -> bool:
    """Whether `to_text` would change anything but entities."""
    return "<" in text and _TAG.search(text) is not None


def to_text(text: str, *, chrome: bool = False) -> str:
    """Visible text. Menus, footers and banners count as seen only with `chrome`.

    Text without markup and entities comes back as it is.
    """
    for _ in range(ROUNDS):
        if "<" in text and "[CDATA[" in text:
            text = text.replace("<![CDATA[", "").replace("]]>", "")
        if has_markup(text):
            text = _ANY_TAG.sub(" ", text) if _too_deep(text) else _render(text, chrome)
        elif "&" in text and _ENTITY.search(text):
            text = _ENTITY.sub(_unescape, text)
        else:
            break
    return text


def _unescape(match: re.Match[str]) -> str:
    return html.unescape(match[0])


def _too_deep(markup: str) -> bool:
    if markup.count("<") <= MAX_DEPTH:
        return False
    open_by_name: Counter[str] = Counter()
    depth = 0
    for closing, name in _ANY_TAG.findall(markup):
        name = name.lower()
        if closing:
            if open_by_name[name]:
                open_by_name[name] -= 1
                depth -= 1
        elif name not in _UNCLOSED:
            open_by_name[name] += 1
            depth += 1
            if depth > MAX_DEPTH:
                return True
    return False


def _render(markup: str, chrome: bool) -> str:
    root = LexborHTMLParser(markup).root
    parts: list[str] = []
    stack: list[LexborNode | str] = [root] if root is not None else []  # not recursion: nesting is the sender's choice
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            parts.append(node)
            continue
        if node.next is not None:
            stack.append(node.next)
        name = node.tag
        if name == "-text":
            parts.append(node.text_content or "")
            continue
        if name in _UNSEEN or (name in _CHROME and not chrome) or _is_hidden(node, chrome):
            continue
        around = "\n" if name in _BLOCKS else " " if name in _CELLS else ""
        stack.append(around)
        parts.append(around)
        if node.child is not None:
            stack.append(node.child)
    return "".join(parts)


def _is_hidden(node: LexborNode, chrome: bool) -> bool:
    attributes = node.attributes
    if not attributes:
        return False
    style = (attributes.get("style") or "").replace(" ", "").lower()
    if "hidden" in attributes or "display:none" in style:
        return True
    return not chrome and _CHROME_CLASSES.search(attributes.get("class") or "") is not None
