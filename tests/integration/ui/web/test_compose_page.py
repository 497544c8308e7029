"""The compose page: experts of one seed, the estimates for their mix, the recipe as text, and the queued run."""

from __future__ import annotations

import re
from typing import get_args

import pico
import pytest
import yaml
from pages import button, code, field, html, open_page, said, toggle

from composer.mix import recipe, routing
from registry.home import Registry
from registry.queue import runs
from ui.queue.jobs import execute, submit
from ui.web import recipe_form
from ui.web.recipes import propose


def test_an_empty_registry_says_that_a_seed_comes_first(app_registry: Registry) -> None:
    app = open_page("compose")
    assert not app.exception
    assert "There is no seed yet" in html(app)


def test_only_experts_of_the_chosen_seed_are_offered(filled: Registry) -> None:
    app = open_page("compose", seed="smol")
    assert not app.exception
    assert app.multiselect(key="chosen").options == ["code@1", "cooking@1", "law@1"]
    lonely = open_page("compose", seed="lonely")
    assert "No expert of this seed yet" in html(lonely)


def test_the_address_selects_experts_and_the_page_shows_the_recipe_as_command_and_file(
    filled: Registry,
) -> None:
    app = open_page("compose", seed="smol", experts="code@1,law@1,nobody@1")
    assert not app.exception
    shell, file = code(app)[-2:]
    assert shell == "nexusmix compose code-law --seed smol --experts code@1,law@1"
    assert yaml.safe_load(file)["experts"] == ["code@1", "law@1"]
    assert "Apache-2.0 AND MIT" in html(app)


def test_every_control_reaches_the_command(filled: Registry) -> None:
    app = open_page("compose", seed="smol", experts="code@1,law@1")
    app.text_input[0].set_value("team")
    app.select_slider[0].set_value(10_000)
    app.number_input[0].set_value(2)
    app.selectbox[1].set_value("ties")
    toggle(app, "Fit the router to the domains first").set_value(False).run()
    assert code(app)[-2] == (
        "nexusmix compose team --seed smol --experts code@1,law@1 --top-k 2 --tokens 10000 "
        "--trunk-merge ties --no-warm-start"
    )


def test_the_ways_to_choose_experts_reach_the_command_and_exclude_each_other(filled: Registry) -> None:
    app = open_page("compose", seed="smol", experts="code@1,law@1")
    (nulls,) = (each for each in app.number_input if each.label == "Null experts")
    assert nulls.disabled
    field(app, "Experts a token").set_value("top_p").run()
    assert not app.exception
    (nulls,) = (each for each in app.number_input if each.label == "Null experts")
    nulls.set_value(1)
    field(app, "Router").set_value("linear")
    field(app, "How much of each domain").set_value("proportional").run()
    assert not app.exception
    assert code(app)[-2] == (
        "nexusmix compose code-law --seed smol --experts code@1,law@1 --router linear --top-p 0.7 "
        "--null-experts 1 --data-mix proportional"
    )


@pytest.mark.parametrize(
    ("choices", "names"),
    [
        (recipe_form.COMBINATIONS, get_args(routing.Combine)),
        (recipe_form.DATA_MIXES, get_args(recipe.DataMixName)),
        (recipe_form.TRAINED, get_args(recipe.TrainedPart)),
    ],
)
def test_every_value_of_a_recipe_has_its_words_on_the_page(
    choices: dict[str, object], names: tuple[str, ...]
) -> None:
    assert set(choices) == set(names)


def test_composing_queues_one_run_of_the_recipe_shown(filled: Registry) -> None:
    for _ in range(2):
        button(open_page("compose", seed="smol", experts="code@1,law@1"), "Compose").click().run()
    (run,) = runs.list_runs(filled)
    assert run.kind == "compose"
    assert run.request["recipe"]["experts"] == ["code@1", "law@1"]
    assert run.request["evaluate"] is True


def test_the_evaluation_is_queued_when_the_mix_is_there(filled: Registry) -> None:
    training = {"warm_start": False, "tokens": 0}
    wanted = {"name": "team", "seed": "smol", "experts": ["code@1", "law@1"], "training": training}
    asked = {"recipe": wanted, "evaluate": True}
    execute(filled, submit(filled, "compose", asked), lambda *_: None)
    (run,) = runs.list_runs(filled, kind="evaluate")
    assert run.request == {"mix": "team@1", "against": []}


def test_licences_that_forbid_each_other_name_the_pair_and_ask_for_a_reason(filled: Registry) -> None:
    app = open_page("compose", seed="smol", experts="code@1,cooking@1")
    assert not app.exception
    assert "cooking" in app.warning[0].value and "forbids" in app.warning[0].value
    button(app, "Compose").click().run()
    assert "Say first why" in app.error[0].value and not runs.list_runs(filled)
    app.text_input[1].set_value("written permission").run()
    assert not app.error
    assert "--license-override 'written permission'" in code(app)[-2]


def test_a_name_that_cannot_be_one_is_refused_under_its_field_and_takes_nothing_away(
    filled: Registry,
) -> None:
    app = open_page("compose", seed="smol", experts="code@1,law@1")
    field(app, "Router").set_value("linear")
    app.text_input[0].set_value("../up").run()
    assert not app.exception
    assert len(app.error) == 1
    assert "../up" in said(app.error[0])
    assert "Apache-2.0 AND MIT" in html(app) and "--router linear" in code(app)[-2]
    button(app, "Compose").click().run()
    assert "Mend the name first" in app.error[-1].value and not runs.list_runs(filled)
    app.text_input[0].set_value("up").run()
    assert not app.error and "compose up" in code(app)[-2] and "--router linear" in code(app)[-2]


def test_a_proposal_without_samples_asks_for_them_and_the_rest_of_the_page_stays(filled: Registry) -> None:
    app = open_page("compose", seed="smol", experts="code@1")
    button(app, "Propose").click().run()
    assert "Paste a sample first" in app.error[0].value
    assert button(app, "Compose")


def test_samples_propose_an_expert_for_each(filled: Registry) -> None:
    samples = "\n---\n".join(pico.domain_documents(domain, 1)[0] for domain in ("law", "code"))
    assert set(propose(filled, samples, "smol")) == {"law@1", "code@1"}
    app = open_page("compose", seed="smol")
    app.text_area(key="samples").set_value(samples).run()
    button(app, "Propose").click().run()
    assert not app.exception
    assert set(app.multiselect(key="chosen").value) == {"law@1", "code@1"}
    assert len(re.findall('class="figure"', html(app))) == 2
