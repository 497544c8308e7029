"""The map of domains: where experts lie, and its states."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import publishing
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from registry.home import Registry, open_registry
from registry.records import DomainEmbedding
from ui.domain_map import project


@pytest.fixture(autouse=True)
def _fresh_app() -> Iterator[None]:
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


@pytest.fixture
def registry() -> Iterator[Registry]:
    opened = open_registry()
    yield opened
    opened.engine.dispose()


def domain(*mean: float) -> DomainEmbedding:
    vector = np.array(mean, dtype=np.float32)
    unit = vector / np.linalg.norm(vector)
    weights = np.ones(1, dtype=np.float32)
    return DomainEmbedding(publishing.EMBEDDER, vector, unit[None], weights, 1, "0" * 64)


def open_map() -> AppTest:
    def page() -> None:
        from ui.pages import map

        map.render()

    return AppTest.from_function(page, default_timeout=30).run()


def test_experts_of_like_domains_lie_near_each_other(registry: Registry) -> None:
    publishing.add_seed(registry)
    domains = {
        "law": (1, 0, 0, 0),
        "contracts": (1, 0.1, 0, 0),
        "cpp": (0, 0, 1, 0),
        "python": (0, 0, 1, 0.1),
    }
    experts = [publishing.add_expert(registry, n, embedding=domain(*d)) for n, d in domains.items()]
    law, contracts, cpp, python = project(experts).points
    assert np.linalg.norm(law - contracts) < np.linalg.norm(law - cpp) / 2
    assert np.linalg.norm(cpp - python) < np.linalg.norm(contracts - python) / 2


@pytest.mark.parametrize("count", [1, 2])
def test_few_experts_are_drawn_too(registry: Registry, count: int) -> None:
    publishing.add_seed(registry)
    experts = [
        publishing.add_expert(registry, f"e{n}", embedding=publishing.make_embedding(n)) for n in range(count)
    ]
    assert np.isfinite(project(experts).points).all()
    assert not open_map().exception


def test_the_map_carries_refs_and_escapes_what_others_wrote(registry: Registry) -> None:
    publishing.add_seed(registry)
    publishing.add_expert(registry, "law", description="<a href='javascript:x'>")
    app = open_map()
    assert not app.exception
    (chart,) = app.get("plotly_chart")
    (trace,) = json.loads(chart.proto.spec)["data"]
    assert trace["customdata"][0] == ["law@1", "&lt;a href=&#x27;javascript:x&#x27;&gt;"]


def test_an_empty_map_says_what_to_do() -> None:
    app = open_map()
    assert not app.exception
    assert any("Nothing to draw yet" in str(element.proto.body) for element in app.get("html"))
