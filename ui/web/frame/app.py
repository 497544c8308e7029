"""The web app's frame: the style, the header and the pages. `nexusmix ui` starts it.

It stands apart from ui/web/pages/: a folder of that name beside the script is an old convention of Streamlit's, by
which it would serve those files as pages of their own to whoever comes first by a deep link.
"""

from __future__ import annotations

import streamlit as st

from ui.web import routes, theme
from ui.web.pages import (
    catalog,
    compose,
    contribute,
    expert,
    map,
    mix,
    mixes,
    playground,
    run,
    runs,
)

# In the order of the header.
PAGES = (
    routes.catalog(catalog.render),
    routes.domain_map(map.render),
    routes.compose(compose.render),
    routes.mixes(mixes.render),
    routes.playground(playground.render),
    routes.runs(runs.render),
    routes.contribute(contribute.render),
    routes.expert(expert.render),
    routes.mix(mix.render),
    routes.run(run.render),
)

st.set_page_config(page_title="nexusmix", page_icon=str(theme.ICON), layout="wide")
for style in theme.STYLES:
    st.html(style)
st.logo(theme.LOGO, size="large")
st.navigation(PAGES, position="top").run()
