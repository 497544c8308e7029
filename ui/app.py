"""The web app's frame: the style, the header and the pages. `nexusmix ui` starts it."""

from __future__ import annotations

import streamlit as st

from ui import routes, theme

st.set_page_config(page_title="nexusmix", page_icon=str(theme.ICON), layout="wide")
st.html(theme.STYLE)
st.logo(theme.LOGO, size="large")
st.navigation(routes.every_page(), position="top").run()
