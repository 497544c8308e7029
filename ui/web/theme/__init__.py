"""The web app's theme: colours as Streamlit settings, everything else as style sheets."""

from __future__ import annotations

import base64
import tomllib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
STYLES = (FOLDER / "style.css", FOLDER / "pages.css")
LOGO = FOLDER / "logo.svg"
ICON = FOLDER / "icon.svg"
LOADING = FOLDER / "loading.html"


def loading_page() -> bytes:
    """Return the HTML that a browser shows until the app's first element; it contains the logo."""
    logo = base64.b64encode(LOGO.read_bytes()).decode()
    html = LOADING.read_text(encoding="utf-8")
    return html.replace("{logo}", f"data:image/svg+xml;base64,{logo}").encode()


def streamlit_flags() -> list[str]:
    """Return the theme's settings as flags of `streamlit run`, which take precedence over the user's config files."""
    settings = tomllib.loads((FOLDER / "config.toml").read_text(encoding="utf-8"))
    return [f"--{name}={_flag(value)}" for name, value in _flatten(settings).items()]


def _flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _flag(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
