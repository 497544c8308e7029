"""The web app's frame: the header and the pages. `nexusmix ui` starts it.

This script must not be in the parent folder of pages/. Streamlit treats a folder named `pages` next to its script as
pages to serve (an old convention), and a first visit by a deep link would then open those files directly.
"""

from __future__ import annotations

import streamlit as st

from ui.web import address, routes, session, theme
from ui.web.frame import heap
from ui.web.pages import (
    catalog,
    compose,
    contribute,
    expert,
    lens,
    log,
    map,
    mix,
    mixes,
    playground,
    run,
    runs,
    seed,
    workbench,
)

# In the order of the header's links.
PAGES = (
    routes.catalog(catalog.render),
    routes.domain_map(map.render),
    routes.compose(compose.render),
    routes.mixes(mixes.render),
    routes.lens(lens.render),
    routes.playground(playground.render),
    routes.runs(runs.render),
    routes.contribute(contribute.render),
    routes.log(log.render),
    routes.expert(expert.render),
    routes.mix(mix.render),
    routes.workbench(workbench.render),
    routes.run(run.render),
    routes.seed(seed.render),
)

heap.exclude_imports()
st.set_page_config(page_title="nexusmix", page_icon=str(theme.ICON), layout="wide")
# Streamlit loads the code of HTML elements at the first of them. This one takes no room, and comes before the page.
st.html("<style></style>")
st.logo(theme.LOGO, size="large")
page = st.navigation(PAGES, position="top")
address.visit(page.url_path)
if session.logged_in():
    page.run()
    session.visitor_line()
