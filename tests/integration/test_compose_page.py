"""The compose page: experts of one seed, what their mix will be, the recipe as text, and the queued run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pico
import pytest
import streamlit as st
import yaml
from streamlit.testing.v1 import AppTest

from registry import runs
from registry.home import Registry, open_registry
from registry.intake import add_seed, contribute
from ui.recipes import propose

LICENSES = {"code": "MIT", "law": "Apache-2.0", "cooking": "CC-BY-ND-4.0"}


@pytest.fixture(autouse=True)
def _fresh_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test's app opens its own registry, with the offline embedder."""
    monkeypatch.setenv("NEXUSMIX_EMBEDDER", "hashing:64")
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


@pytest.fixture
def filled(pico_seed: Path, pico_expert: Path, pico_anchored: Path, tmp_path: Path) -> Iterator[Registry]:
    """A seed with three experts, of which cooking's licence forbids mixes, and a seed without any."""
    registry = open_registry()
    add_seed(registry, "smol", pico_seed, license="Apache-2.0")
    add_seed(registry, "lonely", pico_seed, license="Apache-2.0")
    for name, folder in {"code": pico_expert, "law": pico_anchored, "cooking": pico_expert}.items():
        data = [pico.write_documents(tmp_path / f"{name}.jsonl", name)]
        contribute(registry, name, folder, seed="smol", license=LICENSES[name], data=data)
    yield registry
    registry.engine.dispose()


def open_compose(**query: str) -> AppTest:
    def page() -> None:
        from ui.pages import compose

        compose.render()

    app = AppTest.from_function(page, default_timeout=30)
    for name, value in query.items():
        app.query_params[name] = value
    return app.run()


def html(app: AppTest) -> str:
    return "\n".join(str(element.proto.body) for element in app.get("html"))


def code(app: AppTest) -> list[str]:
    return [block.value for block in app.code]


def button(app: AppTest, name: str) -> AppTest:
    return next(button for button in app.button if button.label == name)


def test_an_empty_registry_says_that_a_seed_comes_first() -> None:
    app = open_compose()
    assert not app.exception
    assert "There is no seed yet" in html(app)


def test_only_experts_of_the_chosen_seed_are_offered(filled: Registry) -> None:
    app = open_compose(seed="smol")
    assert not app.exception
    assert app.multiselect(key="chosen").options == ["code@1", "cooking@1", "law@1"]
    lonely = open_compose(seed="lonely")
    assert "No expert of this seed yet" in html(lonely)


def test_the_address_chooses_and_the_recipe_stands_there_as_command_and_file(filled: Registry) -> None:
    app = open_compose(seed="smol", experts="code@1,law@1,nobody@1")
    assert not app.exception
    shell, file = code(app)[-2:]
    assert shell == "nexusmix compose code-law --seed smol --experts code@1,law@1"
    assert yaml.safe_load(file)["experts"] == ["code@1", "law@1"]
    assert "Apache-2.0 AND MIT" in html(app)


def test_every_control_reaches_the_command(filled: Registry) -> None:
    app = open_compose(seed="smol", experts="code@1,law@1")
    app.text_input[0].set_value("team")
    app.select_slider[0].set_value(10_000)
    app.number_input[0].set_value(2)
    app.selectbox[1].set_value("ties")
    app.toggle[0].set_value(False).run()
    assert code(app)[-2] == (
        "nexusmix compose team --seed smol --experts code@1,law@1 --top-k 2 --tokens 10000 "
        "--trunk-merge ties --no-warm-start"
    )


def test_composing_queues_one_run_of_the_recipe_shown(filled: Registry) -> None:
    for _ in range(2):
        button(open_compose(seed="smol", experts="code@1,law@1"), "Compose").click().run()
    (run,) = runs.list_runs(filled)
    assert run.kind == "compose"
    assert run.request["recipe"]["experts"] == ["code@1", "law@1"]


def test_licences_that_forbid_each_other_name_the_pair_and_ask_for_a_reason(filled: Registry) -> None:
    app = open_compose(seed="smol", experts="code@1,cooking@1")
    assert not app.exception
    assert "cooking" in app.warning[0].value and "forbids" in app.warning[0].value
    assert button(app, "Compose").disabled
    app.text_input[1].set_value("written permission").run()
    assert not button(app, "Compose").disabled
    assert "--license-override 'written permission'" in code(app)[-2]


def test_a_name_that_cannot_be_one_is_refused_with_the_reason(filled: Registry) -> None:
    app = open_compose(seed="smol", experts="code@1")
    app.text_input[0].set_value("../up").run()
    assert not app.exception
    assert len(app.error) == 1
    assert any("../up" in block for block in code(app))


def test_samples_propose_an_expert_for_each(filled: Registry) -> None:
    samples = "\n---\n".join(pico.domain_documents(domain, 1)[0] for domain in ("law", "code"))
    assert set(propose(filled, samples, "smol")) == {"law@1", "code@1"}
    app = open_compose(seed="smol")
    app.text_area(key="samples").set_value(samples).run()
    button(app, "Propose").click().run()
    assert not app.exception
    assert set(app.multiselect(key="chosen").value) == {"law@1", "code@1"}
    assert len(re.findall('class="figure"', html(app))) == 2
