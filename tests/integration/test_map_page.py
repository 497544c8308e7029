"""The map of domains: where experts lie, and its states."""

from __future__ import annotations

import json

import numpy as np
import publishing
import pytest
from pages import html, open_page

from registry.home import Registry
from registry.records import DomainEmbedding
from ui.domain_map import project


def domain(*mean: float) -> DomainEmbedding:
    vector = np.array(mean, dtype=np.float32)
    unit = vector / np.linalg.norm(vector)
    weights = np.ones(1, dtype=np.float32)
    return DomainEmbedding(publishing.EMBEDDER, vector, unit[None], weights, 1, "0" * 64)


def test_experts_of_like_domains_lie_near_each_other(app_registry: Registry) -> None:
    publishing.add_seed(app_registry)
    domains = {
        "law": (1, 0, 0, 0),
        "contracts": (1, 0.1, 0, 0),
        "cpp": (0, 0, 1, 0),
        "python": (0, 0, 1, 0.1),
    }
    experts = [publishing.add_expert(app_registry, n, embedding=domain(*d)) for n, d in domains.items()]
    law, contracts, cpp, python = project(experts).points
    assert np.linalg.norm(law - contracts) < np.linalg.norm(law - cpp) / 2
    assert np.linalg.norm(cpp - python) < np.linalg.norm(contracts - python) / 2


@pytest.mark.parametrize("count", [1, 2])
def test_few_experts_are_drawn_too(app_registry: Registry, count: int) -> None:
    publishing.add_seed(app_registry)
    experts = [
        publishing.add_expert(app_registry, f"e{n}", embedding=publishing.make_embedding(n))
        for n in range(count)
    ]
    assert np.isfinite(project(experts).points).all()
    assert not open_page("map").exception


def test_the_map_carries_refs_and_escapes_what_others_wrote(app_registry: Registry) -> None:
    publishing.add_seed(app_registry)
    publishing.add_expert(app_registry, "law", description="<a href='javascript:x'>")
    app = open_page("map")
    assert not app.exception
    (chart,) = app.get("plotly_chart")
    (trace,) = json.loads(chart.proto.spec)["data"]
    assert trace["customdata"][0] == ["law@1", "&lt;a href=&#x27;javascript:x&#x27;&gt;"]


def test_an_empty_map_says_what_to_do(app_registry: Registry) -> None:
    app = open_page("map")
    assert not app.exception
    assert "Nothing to draw yet" in html(app)
