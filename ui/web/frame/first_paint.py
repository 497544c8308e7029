"""A first paint, the style sheets and the scripts of common elements in the served page itself, so that nothing moves.

Streamlit has no setting for them. Its own page is empty until its scripts have run, for one to two seconds. As an
element of a page, a style sheet arrives after the first elements and moves them. The script of an element's kind is
loaded at its first use, and its placeholder has another size.
"""

from __future__ import annotations

import json
from pathlib import Path

import streamlit

from ui.web import theme
from ui.web.frame.guard import Application, Message, Receive, Send

# A cached or compressed answer cannot be changed here.
NOT_PASSED = (b"accept-encoding", b"if-none-match", b"if-modified-since")
NOT_KEPT = (b"content-length", b"etag", b"last-modified")
HEAD, END = b"</head>", b"</body>"
# The names of Streamlit's scripts: the kinds that several pages have, without charts and tables, which are large.
SCRIPTS = (
    "Html",
    "PageLink",
    "Button",
    "TextInput",
    "Selectbox",
    "TextArea",
    "Checkbox",
    "ButtonGroup",
    "FileUploader",
    "NumberInput",
    "Slider",
    "Multiselect",
    "Pagination",
    "Spinner",
)
STATIC = Path(streamlit.__file__).parent / "static"


class FirstPaint:
    """ASGI middleware: adds the first paint, style sheets and scripts to every page that a browser navigates to.

    The style sheets are at the end of the body, so they come after Streamlit's own rules and take precedence.
    """

    def __init__(self, app: Application) -> None:
        self.app = app
        sheets = b"\n".join(path.read_bytes() for path in theme.STYLES)
        self.end = b"<style>\n" + sheets + b"</style>\n" + theme.loading_page() + END
        links = [f'<link rel="modulepreload" crossorigin href="./{path}">' for path in scripts()]
        self.head = "\n".join(links).encode() + HEAD

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass the request on, and change the answer if it is a page."""
        if scope["type"] != "http" or scope["method"] != "GET" or not _navigates(scope):
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        page = b""

        async def styled(message: Message) -> None:
            nonlocal start, page
            if message["type"] == "http.response.start" and _is_page(message):
                start = message
            elif start is None:
                await send(message)
            else:
                page += message.get("body", b"")
                if not message.get("more_body", False):
                    page = page.replace(HEAD, self.head, 1).replace(END, self.end, 1)
                    kept = [(name, value) for name, value in start["headers"] if name not in NOT_KEPT]
                    await send({**start, "headers": [*kept, (b"content-length", b"%d" % len(page))]})
                    await send({"type": "http.response.body", "body": page})

        passed = [(name, value) for name, value in scope["headers"] if name not in NOT_PASSED]
        await self.app({**scope, "headers": passed}, receive, styled)


def scripts(static: Path = STATIC) -> list[str]:
    """Return the paths of SCRIPTS and of the scripts that they import, relative to Streamlit's files.

    A version of Streamlit without its list of scripts gives none: pages then load as Streamlit makes them.
    """
    listed = static / "manifest.json"
    if not listed.is_file():
        return []
    manifest = json.loads(listed.read_text(encoding="utf-8"))
    left = [name for name, entry in manifest.items() if entry.get("name") in SCRIPTS]
    found: dict[str, str] = {}
    while left:
        name = left.pop()
        if name not in found:
            found[name] = manifest[name]["file"]
            left += manifest[name].get("imports", [])
    return [path for path in found.values() if path.endswith(".js")]


def _navigates(scope: Message) -> bool:
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])


def _is_page(message: Message) -> bool:
    return any(
        name == b"content-type" and value.startswith(b"text/html") for name, value in message["headers"]
    )
