"""The style sheets and scripts that are added to every page that a browser opens."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ui.web import theme
from ui.web.frame.first_paint import SCRIPTS, STATIC, FirstPaint, scripts
from ui.web.frame.guard import Message

PAGE = b"<html><head></head><body></body></html>"
NAVIGATION = [(b"accept", b"text/html,*/*"), (b"if-none-match", b"old"), (b"accept-encoding", b"gzip")]


def ask(kind: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[Message, Message, bytes]:
    """Answer a request with PAGE as this kind; return the request that arrived, the start and the body."""
    sent: list[Any] = []
    asked: list[Message] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        asked.append(scope)
        given = [(b"content-type", kind), (b"content-length", b"%d" % len(PAGE)), (b"etag", b"old")]
        await send({"type": "http.response.start", "status": 200, "headers": given})
        await send({"type": "http.response.body", "body": PAGE[:9], "more_body": True})
        await send({"type": "http.response.body", "body": PAGE[9:]})

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Message = {"type": "http", "method": "GET", "path": "/", "headers": headers}
    asyncio.run(FirstPaint(app)(scope, None, send))  # type: ignore[arg-type]
    return asked[0], sent[0], b"".join(message["body"] for message in sent[1:])


def test_a_page_has_every_style_sheet_after_its_content_and_the_scripts_before_it() -> None:
    asked, start, page = ask(b"text/html; charset=utf-8", NAVIGATION)
    for sheet in theme.STYLES:
        assert sheet.read_bytes() in page.split(b"<body>")[1]
    assert page.split(b"</head>")[0].count(b"modulepreload") == len(scripts())
    assert b'src="data:image/svg+xml;base64,' in page.split(b'<div id="nm-loading"')[1]
    assert dict(start["headers"])[b"content-length"] == b"%d" % len(page)
    assert page.endswith(b"</body></html>")
    # An unchanged page of Streamlit is not an unchanged style sheet.
    assert asked["headers"] == [(b"accept", b"text/html,*/*")]
    assert b"etag" not in dict(start["headers"])


def test_any_other_answer_is_passed_as_it_is() -> None:
    for kind, headers in ((b"text/html", [(b"accept", b"*/*")]), (b"text/javascript", NAVIGATION)):
        _asked, start, page = ask(kind, headers)
        assert page == PAGE
        assert dict(start["headers"])[b"etag"] == b"old"


def test_streamlit_has_every_named_script() -> None:
    files = scripts()
    assert all((STATIC / path).is_file() for path in files)
    assert [name for name in SCRIPTS if not any(f"/{name}." in path for path in files)] == []


def test_a_streamlit_without_a_list_of_scripts_gets_the_style_sheets_alone(tmp_path: Path) -> None:
    assert scripts(tmp_path) == []
