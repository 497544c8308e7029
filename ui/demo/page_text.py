"""The text of an HTML page of a manual."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_HIDDEN = frozenset(("script", "style", "title", "nav", "head", "noscript"))
_BLOCKS = frozenset(
    ("p", "div", "li", "h1", "h2", "h3", "h4", "h5", "dt", "dd", "tr", "br", "table", "pre", "blockquote")
)


def page_text(html: str) -> str:
    """Return the page's blocks, separated by empty lines, without scripts, styles and navigation."""
    page = _Page()
    page.feed(html)
    page.close()
    return "\n\n".join(page.blocks)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[str] = []
        self._block = ""
        self._hidden = 0
        self._verbatim = 0  # inside <pre>, where spaces and line ends count

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self._end_block()
        self._hidden += tag in _HIDDEN
        self._verbatim += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._end_block()
        self._hidden = max(0, self._hidden - (tag in _HIDDEN))
        self._verbatim = max(0, self._verbatim - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._block += data if self._verbatim else re.sub(r"\s+", " ", data)

    def _end_block(self) -> None:
        block = self._block.strip("\n") if self._verbatim else self._block.strip()
        if block.strip():
            self.blocks.append(block)
        self._block = ""
