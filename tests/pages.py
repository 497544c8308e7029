"""Opens the web app's pages in Streamlit's own test harness, and reads their contents.

app = open_page("expert", ref="law@1")
assert "anchored" in html(app)
"""

from __future__ import annotations

from typing import Any

from streamlit.testing.v1 import AppTest

TIMEOUT_SECONDS = 60


def open_page(name: str, /, **query: str) -> AppTest:
    """Open the page of that module of ui/web/pages, with this query in its address."""
    script = f"from ui.web.pages import {name} as page\npage.render()\n"
    app = AppTest.from_string(script, default_timeout=TIMEOUT_SECONDS)
    for key, value in query.items():
        app.query_params[key] = value
    return app.run()


def html(app: AppTest) -> str:
    """All HTML of the page."""
    return "\n".join(str(element.proto.body) for element in app.get("html"))


def links(app: AppTest) -> list[str]:
    """Labels of the links to other pages, in order."""
    return [element.proto.label.replace("\\", "") for element in app.get("page_link")]


def code(app: AppTest) -> list[str]:
    """Contents of the code blocks, in order."""
    return [block.value for block in app.code]


def captions(app: AppTest) -> str:
    """Captions, one per line."""
    return "\n".join(caption.value.replace("\\", "") for caption in app.caption)


def said(element: Any) -> str:
    """Text of an error or a warning, without Markdown escapes."""
    return str(element.value).replace("\\", "")


def button(app: AppTest, label: str) -> Any:
    """The button with this label."""
    return next(button for button in app.button if button.label == label)


def field(app: AppTest, label: str) -> Any:
    """The input whose label starts with this text."""
    fields = [*app.text_input, *app.text_area, *app.selectbox, *app.segmented_control, *app.radio]
    return next(field for field in fields if field.label.startswith(label))


def toggle(app: AppTest, label: str) -> Any:
    """The switch with this label."""
    return next(each for each in app.toggle if each.label.replace("\\", "") == label)
