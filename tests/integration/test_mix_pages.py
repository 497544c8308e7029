"""The pages of mixes, of one mix and of the playground, on pico models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pico
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from composer.compose import compose
from composer.recipe import Recipe
from registry import catalog, runs
from registry.home import Registry, open_registry
from registry.intake import add_seed, contribute

UNTRAINED = {"warm_start": False, "tokens": 0}
EVALUATION: dict[str, Any] = {
    "mix": "team@1",
    "bits_per_byte": {
        "code": {"seed": 3.0, "expert": 2.0, "dense_merging": 2.5, "mix": 2.25},
        "<b>law": {"seed": 3.2, "expert": 2.9, "dense_merging": 2.8, "mix": 2.75},
    },
    "mean": {"seed": 3.1, "expert": 2.45, "dense_merging": 2.65, "mix": 2.5},
    "routing": {"code": {"code@1": 0.75, "law@1": 0.25}, "<b>law": {"code@1": 0.1, "law@1": 0.9}},
    "routing_by_layer": {
        "code": {"code@1": [0.5, 1.0], "law@1": [0.5, 0.0]},
        "<b>law": {"code@1": [0.2, 0.0], "law@1": [0.8, 1.0]},
    },
}


@pytest.fixture(autouse=True)
def _fresh_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test's app opens its own registry, with the offline embedder."""
    monkeypatch.setenv("NEXUSMIX_EMBEDDER", "hashing:64")
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


@pytest.fixture
def filled(pico_seed: Path, pico_expert: Path, pico_anchored: Path, tmp_path: Path) -> Iterator[Registry]:
    """Three experts; the mix team@1 of code and law, evaluated, and team@2 of all, which came from it."""
    registry = open_registry()
    add_seed(registry, "smol", pico_seed, license="Apache-2.0")
    for name, folder in {"code": pico_expert, "law": pico_anchored, "cooking": pico_expert}.items():
        data = [pico.write_documents(tmp_path / f"{name}.jsonl", name)]
        contribute(registry, name, folder, seed="smol", license="MIT", data=data)
    recipe = {"name": "team", "seed": "smol", "experts": ["code", "law"], "training": UNTRAINED}
    first = compose(registry, Recipe.parse(recipe))
    catalog.record_evaluation(registry, "team@1", EVALUATION)
    catalog.publish_mix(
        registry,
        "team",
        seed="smol",
        experts=["code@1", "law@1", "cooking@1"],
        manifest=first.mix.manifest,
        lock=first.mix.lock,
        blobs=first.manifest.blobs(),
        parent="team@1",
    )
    yield registry
    registry.engine.dispose()


def open_page(page: Callable[[], None], **query: str) -> AppTest:
    app = AppTest.from_function(page, default_timeout=60)
    for name, value in query.items():
        app.query_params[name] = value
    return app.run()


def mixes_page() -> None:
    from ui.pages import mixes

    mixes.render()


def mix_page() -> None:
    from ui.pages import mix

    mix.render()


def playground_page() -> None:
    from ui.pages import playground

    playground.render()


def html(app: AppTest) -> str:
    return "\n".join(str(element.proto.body) for element in app.get("html"))


def links(app: AppTest) -> list[str]:
    return [element.proto.label.replace("\\", "") for element in app.get("page_link")]


def button(app: AppTest, name: str) -> Any:
    return next(button for button in app.button if button.label == name)


@pytest.mark.parametrize(
    ("page", "words"),
    [(mixes_page, "Nothing was composed yet"), (playground_page, "There is no mix to play with")],
)
def test_without_mixes_a_page_says_how_to_get_one(page: Callable[[], None], words: str) -> None:
    app = open_page(page)
    assert not app.exception
    assert words in html(app)


def test_a_card_shows_the_newest_version_and_links_to_those_before(filled: Registry) -> None:
    app = open_page(mixes_page)
    assert not app.exception
    assert links(app) == ["team :gray[@2]", "@1"]
    assert "not evaluated yet" in html(app)


def test_two_mixes_are_compared_by_address(filled: Registry) -> None:
    app = open_page(mixes_page, a="team@1", b="team@2")
    assert not app.exception
    assert 'class="differs"><th scope="row">Experts' in html(app)
    assert "Not evaluated yet: team@2" in "".join(caption.value for caption in app.caption).replace("\\", "")
    app.selectbox(key="b").set_value("team@1").run()
    assert any(caption.value == "Choose two different mixes." for caption in app.caption)


def test_a_mix_shows_its_scores_its_routing_and_its_lineage(filled: Registry) -> None:
    app = open_page(mix_page, ref="team@1")
    assert not app.exception
    shown = html(app)
    assert shown.count('class="best"') == 3  # each domain's, and the mean's
    assert "75 %" in shown and "mean over blocks" in shown
    assert "&lt;b&gt;law" in shown and "<b>law" not in shown
    assert {"team@1 :gray[composed]", "└ team@2 :gray[+ cooking@1]"} <= set(links(app))
    app.select_slider(key="block").set_value(2).run()
    assert "block 2 of 2" in html(app) and "100 %" in html(app)


def test_a_mix_that_was_never_measured_and_one_that_does_not_exist_say_so(filled: Registry) -> None:
    assert "Not evaluated yet" in html(open_page(mix_page, ref="team@2"))
    assert "Not found" in html(open_page(mix_page, ref="nobody@1"))
    assert "No mix chosen" in html(open_page(mix_page))


@pytest.mark.parametrize(
    ("name", "kind", "request_"),
    [
        ("Evaluate it", "evaluate", {"mix": "team@1", "against": []}),
        ("Compose without it", "remove", {"mix": "team@1", "expert": "code@1"}),
        (
            "Extend it",
            "extend",
            {"mix": "team@1", "expert": "cooking@1", "training": {"tokens": 100_000, "load_balance": 0.01}},
        ),
    ],
)
def test_the_buttons_of_a_mix_queue_runs(
    filled: Registry, name: str, kind: str, request_: dict[str, Any]
) -> None:
    button(open_page(mix_page, ref="team@1"), name).click().run()
    (run,) = runs.list_runs(filled)
    assert (run.kind, run.request) == (kind, request_)


def test_an_export_is_queued_for_a_new_folder_only(filled: Registry, tmp_path: Path) -> None:
    app = open_page(mix_page, ref="team@1")
    app.text_input[0].set_value(str(tmp_path))
    button(app, "Export it").click().run()
    assert len(app.error) == 1 and not runs.list_runs(filled)
    app = open_page(mix_page, ref="team@1")
    app.text_input[0].set_value(str(tmp_path / "new"))
    button(app, "Export it").click().run()
    (run,) = runs.list_runs(filled)
    assert run.request == {"mix": "team@1", "out": str(tmp_path / "new"), "format": "nexus"}


def test_the_playground_colours_each_token_by_its_expert(filled: Registry) -> None:
    app = open_page(playground_page, mix="team@1")
    assert not app.exception
    assert button(app, "Write on").disabled
    app.text_area(key="prompt").set_value("def <main>").run()
    app.slider[1].set_value(8).run()
    button(app, "Write on").click().run()
    assert not app.exception
    assert 1 <= html(app).count('class="tok"') <= 8
    assert "def &lt;main&gt;" in html(app)
    assert "nm-shares" in html(app)


def test_a_masked_expert_gets_no_token_and_masking_is_called_what_it_is(filled: Registry) -> None:
    app = open_page(playground_page, mix="team@1")
    app.text_area(key="prompt").set_value("court").run()
    app.slider[1].set_value(8).run()
    app.toggle[0].set_value(False).run()
    assert any("Masking is not removal" in caption.value for caption in app.caption)
    button(app, "Write on").click().run()
    assert not app.exception
    assert "law@1 100 %" in html(app) and "code@1 " not in html(app)
    app.toggle[1].set_value(False).run()
    assert button(app, "Write on").disabled
    button(app, "Release the model").click().run()
    assert not app.exception


def test_an_expert_links_to_the_mixes_that_hold_it_and_to_composing_one(filled: Registry) -> None:
    def expert_page() -> None:
        from ui.pages import expert

        expert.render()

    app = open_page(expert_page, ref="law@1")
    assert not app.exception
    assert {"team@1", "team@2", "Compose a mix with it"} <= set(links(app))
