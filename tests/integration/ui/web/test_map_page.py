"""The map of domains: positions of experts, and the states of the page."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import publishing
import pytest
from pages import html, open_page
from streamlit.testing.v1 import AppTest

from registry.catalog.queries import list_domains
from registry.home import Registry
from registry.records import DomainEmbedding
from ui.web.domain_map import project


def domain(*mean: float) -> DomainEmbedding:
    vector = np.array(mean, dtype=np.float32)
    unit = vector / np.linalg.norm(vector)
    weights = np.ones(1, dtype=np.float32)
    return DomainEmbedding(publishing.EMBEDDER, vector, unit[None], weights, 1, "0" * 64)


def traces(app: AppTest) -> list[dict[str, Any]]:
    """The traces of the map: the points of each seed, then the names."""
    assert not app.exception
    (chart,) = app.get("plotly_chart")
    return json.loads(chart.proto.spec)["data"]


def test_experts_of_similar_domains_are_near_each_other(app_registry: Registry) -> None:
    publishing.add_seed(app_registry)
    domains = {
        "law": (1, 0, 0, 0),
        "contracts": (1, 0.1, 0, 0),
        "cpp": (0, 0, 1, 0),
        "python": (0, 0, 1, 0.1),
    }
    for name, mean in domains.items():
        publishing.add_expert(app_registry, name, embedding=domain(*mean))
    contracts, cpp, law, python = project(list_domains(app_registry)).points
    assert np.linalg.norm(law - contracts) < np.linalg.norm(law - cpp) / 2
    assert np.linalg.norm(cpp - python) < np.linalg.norm(contracts - python) / 2


@pytest.mark.parametrize("count", [1, 2])
def test_few_experts_are_drawn_too(app_registry: Registry, count: int) -> None:
    publishing.add_seed(app_registry)
    for number in range(count):
        publishing.add_expert(app_registry, f"e{number}", embedding=publishing.make_embedding(number))
    assert np.isfinite(project(list_domains(app_registry)).points).all()
    assert not open_page("map").exception


def test_the_map_carries_refs_and_escapes_what_others_wrote(app_registry: Registry) -> None:
    publishing.add_seed(app_registry)
    publishing.add_expert(app_registry, "law", description="<a href='javascript:x'>")
    app = open_page("map")
    assert not app.exception
    points, names = traces(app)
    assert points["customdata"] == [["law@1", "&lt;a href=&#x27;javascript:x&#x27;&gt;"]]
    assert names["text"] == ["law<br> "]


def test_a_new_expert_is_on_the_map_at_once(app_registry: Registry) -> None:
    publishing.add_seed(app_registry)
    for number in range(2):
        publishing.add_expert(app_registry, f"e{number}")
        assert len(traces(open_page("map"))[0]["customdata"]) == number + 1


def test_many_experts_are_drawn_by_webgl_with_some_of_their_names(
    app_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    publishing.add_seed(app_registry)
    for number in range(6):
        publishing.add_expert(app_registry, f"e{number}", embedding=publishing.make_embedding(number % 2))
    monkeypatch.setattr("ui.web.domain_map.MANY", 5)
    monkeypatch.setattr("ui.web.domain_map.NAMES_SHOWN", 5)
    points, names = traces(open_page("map"))
    assert points["type"] == "scattergl"
    assert len(points["customdata"]) == 6
    assert names["text"] == ["e0<br> ", "e1<br> "]  # the others are below these two


def test_an_empty_map_says_what_to_do(app_registry: Registry) -> None:
    app = open_page("map")
    assert not app.exception
    assert "No experts yet" in html(app)
