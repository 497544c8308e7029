"""The web app's frame: the style, the header and the pages. `nexusmix ui` starts it.

It stands apart from ui/pages/: a folder of that name beside the script is an old convention of Streamlit's, by
which it would serve those files as pages of their own to whoever comes first by a deep link.
"""

from __future__ import annotations

import streamlit as st

from ui import routes, theme

st.set_page_config(page_title="nexusmix", page_icon=str(theme.ICON), layout="wide")
for style in theme.STYLES:
    st.html(style)
st.logo(theme.LOGO, size="large")
st.navigation(routes.every_page(), position="top").run()
