"""The compose page: experts of one seed, the estimates for their mix, the recipe as text, and the queued run."""

from __future__ import annotations

import re
import shlex
from typing import Any, get_args

import pico
import pytest
import typer
import yaml
from pages import button, captions, code, field, html, open_page, said, toggle
from streamlit.testing.v1 import AppTest

from composer.mix import recipe, routing
from composer.mix.research import OPTIONS
from composer.variants import DATA_MIXES, chosen_by_name
from registry.home import Registry
from registry.queue import runs
from ui.cli import app as cli
from ui.queue.jobs import execute, submit
from ui.web import recipe_form
from ui.web.recipes import propose


def test_an_empty_registry_says_that_a_seed_comes_first(app_registry: Registry) -> None:
    app = open_page("compose")
    assert not app.exception
    assert "No seeds yet" in html(app)


def test_only_experts_of_the_chosen_seed_are_offered(filled: Registry) -> None:
    app = open_page("compose", seed="smol")
    assert not app.exception
    assert app.multiselect(key="compose experts").options == ["code@1", "cooking@1", "law@1"]
    lonely = open_page("compose", seed="lonely")
    assert "No experts of this seed yet" in html(lonely)


def test_the_address_selects_experts_and_the_page_shows_the_recipe_as_command_and_file(
    filled: Registry,
) -> None:
    app = open_page("compose", seed="smol", experts="code@1,law@1,nobody@1")
    assert not app.exception
    shell, file = code(app)[-2:]
    assert shell == "nexusmix compose code-law --seed smol --experts code@1,law@1"
    assert yaml.safe_load(file)["experts"] == ["code@1", "law@1"]
    assert "Apache-2.0 AND MIT" in html(app)


def merged_form() -> AppTest:
    """The page for two experts, with the form of a mix with a merged trunk."""
    app = open_page("compose", seed="smol", experts="code@1,law@1")
    field(app, "Kind of mix").set_value("merged").run()
    return app


def test_a_mix_of_whole_experts_is_the_default_and_asks_for_a_fine_tune_alone(filled: Registry) -> None:
    app = open_page("compose", seed="smol", experts="code@1,law@1")
    (tokens,) = app.select_slider
    assert not app.number_input
    file = yaml.safe_load(code(app)[-1])
    assert (file["trunk_merge"], file["training"]["tokens"]) == ("routed", 0)
    toggle(app, "Measure each expert's strength").set_value(False).run()
    command = "nexusmix compose code-law --seed smol --experts code@1,law@1"
    assert code(app)[-2] == f"{command} --no-warm-start"
    tokens.set_value(10_000).run()
    assert code(app)[-2].startswith(f"{command} --tokens 10000")
    assert yaml.safe_load(code(app)[-1])["trunk_merge"] == "routed"


def test_a_merged_trunk_is_part_of_the_command(filled: Registry) -> None:
    assert code(merged_form())[-2] == (
        "nexusmix compose code-law --seed smol --experts code@1,law@1 --trunk-merge regmean"
    )


def test_every_control_reaches_the_command(filled: Registry) -> None:
    app = merged_form()
    app.text_input[0].set_value("team")
    app.select_slider[0].set_value(10_000)
    app.number_input[0].set_value(2)
    field(app, "Research trunk merge").set_value("ties")
    toggle(app, "Fit the router to the domains first").set_value(False).run()
    assert code(app)[-2] == (
        "nexusmix compose team --seed smol --experts code@1,law@1 --top-k 2 --tokens 10000 "
        "--trunk-merge ties --no-warm-start"
    )


def number(app: AppTest, label: str) -> Any:
    """The number input with this label."""
    return next(each for each in app.number_input if each.label == label)


def tuned_form() -> AppTest:
    """The form of a merged trunk with tokens of fine-tuning, which its options need."""
    app = merged_form()
    app.select_slider[0].set_value(10_000).run()
    return app


def test_the_ways_to_choose_experts_reach_the_command_and_exclude_each_other(filled: Registry) -> None:
    app = tuned_form()
    assert number(app, "Null experts").disabled
    number(app, "Experts per token").set_value(2)
    number(app, "Top-p").set_value(0.7).run()
    assert not app.exception
    number(app, "Null experts").set_value(1)
    field(app, "Router").set_value("linear")
    field(app, "Data mix").set_value("proportional").run()
    assert not app.exception
    assert code(app)[-2] == (
        "nexusmix compose code-law --seed smol --experts code@1,law@1 --router linear --top-p 0.7 "
        "--null-experts 1 --tokens 10000 --data-mix proportional --trunk-merge regmean"
    )


def test_research_options_are_in_one_closed_expander_with_their_verdicts(filled: Registry) -> None:
    app = merged_form()
    (corner,) = (each for each in app.expander if each.label == "Research options")
    assert not corner.proto.expanded
    titles = {each.label for kind in (corner.selectbox, corner.number_input) for each in kind}
    assert titles == {option.title for option in OPTIONS.values()}
    small = "\n".join(each.value for each in corner.caption)
    for option in OPTIONS.values():
        rows = [row for row in option.rows() if chosen_by_name(row)]
        assert all(
            f"Verdict: {verdict}." in small for verdict in [row.verdict for row in rows] or [option.verdict]
        )
    elsewhere = (set(field(app, name).options) for name in ("Router", "Trunk", "Data mix"))
    titles_of_rows = {row.title for option in OPTIONS.values() for row in option.rows()}
    assert not set.union(*elsewhere) & titles_of_rows
    everywhere = [each.label for kind in (app.selectbox, app.number_input) for each in kind]
    assert all(everywhere.count(title) == 1 for title in titles)


def test_every_research_option_reaches_the_command_and_the_recipe_file(filled: Registry) -> None:
    app = tuned_form()
    assert "research" not in yaml.safe_load(code(app)[-1])
    values = {"Top-p": 0.9, "RegMix runs": 4, "RegMix tokens": 64, "Z-loss": 0.001, "Entropy loss": 0.01}
    for title, value in {**values, "Dense to sparse": 0.5}.items():
        number(app, title).set_value(value)
    choices = {"Research router": "recurrent", "Research trunk merge": "pcb", "Research data mix": "regmix"}
    for title, choice in {**choices, "Train the router": True, "Load balance over": "global_batch"}.items():
        field(app, title).set_value(choice)
    app.run()
    number(app, "Null experts").set_value(1)
    app.run()
    assert not app.exception and not app.error
    wanted = {
        "router": "recurrent",
        "trunk_merge": {"method": "pcb", "density": 0.2, "scale": 1.0},
        "top_p": 0.9,
        "null_experts": 1,
        "train_router": True,
        "data_mix": "regmix",
        "regmix_runs": 4,
        "regmix_tokens": 64,
        "balance_over": "global_batch",
        "z_loss": 0.001,
        "entropy": 0.01,
        "dense_to_sparse": 0.5,
    }
    assert wanted.keys() == OPTIONS.keys()
    written = yaml.safe_load(code(app)[-1])
    assert written["research"] == wanted
    verb = typer.main.get_command(cli)
    with_flags = verb.commands["compose"].make_context("compose", shlex.split(code(app)[-2])[2:]).params  # type: ignore[attr-defined]
    assert {name: with_flags[name] for name in wanted} == {**wanted, "trunk_merge": "pcb"}


@pytest.mark.parametrize(
    ("changed", "flags"),
    [
        ({"Research router": "recurrent"}, "--router recurrent --tokens 0 --trunk-merge regmean"),
        ({"Fit the router to the domains first": False}, "--tokens 0 --trunk-merge regmean --no-warm-start"),
    ],
)
def test_a_router_that_nothing_trains_is_a_warning_and_the_command_says_no_tokens(
    changed: dict[str, Any], flags: str, filled: Registry
) -> None:
    app = merged_form()
    ((title, value),) = changed.items()
    (toggle(app, title) if isinstance(value, bool) else field(app, title)).set_value(value).run()
    assert code(app)[-2].endswith(f"--experts code@1,law@1 {flags}")
    assert "Only a fine-tune trains this router: choose tokens of fine-tuning." in [
        w.value for w in app.warning
    ]


def test_the_command_of_a_fine_tunes_option_without_tokens_says_so(filled: Registry) -> None:
    app = tuned_form()
    number(app, "Learning rate").set_value(2e-4)
    app.select_slider[0].set_value(0).run()
    assert code(app)[-2].endswith("--tokens 0 --learning-rate 0.0002 --trunk-merge regmean")


def test_the_learning_rate_follows_the_warm_start_until_somebody_changes_it(filled: Registry) -> None:
    app = tuned_form()
    assert number(app, "Learning rate").value == 1e-4
    fit = toggle(app, "Fit the router to the domains first")
    fit.set_value(False).run()
    assert number(app, "Learning rate").value == 3e-4
    number(app, "Learning rate").set_value(2e-4).run()
    fit.set_value(True).run()
    assert number(app, "Learning rate").value == 2e-4


@pytest.mark.parametrize(
    ("choices", "names"),
    [
        (recipe_form.COMBINATIONS, get_args(routing.Combine)),
        (DATA_MIXES, get_args(recipe.DataMixName)),
        (recipe_form.TRAINED, get_args(recipe.TrainedPart)),
        (
            recipe_form.BALANCE_OVER,
            get_args(recipe.Training.model_fields["balance_over"].annotation),
        ),
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
    assert "First state why" in app.error[0].value and not runs.list_runs(filled)
    app.text_input[1].set_value("written permission").run()
    assert not app.error
    assert "--license-override 'written permission'" in code(app)[-2]


def test_a_name_that_cannot_be_one_is_refused_under_its_field_and_takes_nothing_away(
    filled: Registry,
) -> None:
    app = merged_form()
    field(app, "Router").set_value("linear")
    app.text_input[0].set_value("../up").run()
    assert not app.exception
    assert len(app.error) == 1
    assert "../up" in said(app.error[0])
    assert "Apache-2.0 AND MIT" in html(app) and "--router linear" in code(app)[-2]
    button(app, "Compose").click().run()
    assert "Correct the name first" in app.error[-1].value and not runs.list_runs(filled)
    app.text_input[0].set_value("up").run()
    assert not app.error and "compose up" in code(app)[-2] and "--router linear" in code(app)[-2]


def test_a_proposal_without_samples_asks_for_them_and_the_rest_of_the_page_stays(filled: Registry) -> None:
    app = open_page("compose", seed="smol", experts="code@1")
    button(app, "Propose").click().run()
    assert "Paste a sample first" in app.error[0].value
    assert button(app, "Compose")


def test_samples_propose_an_expert_for_each(filled: Registry) -> None:
    samples = "\n---\n".join(pico.domain_documents(domain, 1)[0] for domain in ("law", "code"))
    assert {each.expert.ref for each in propose(filled, samples, "smol")} == {"law@1", "code@1"}
    app = open_page("compose", seed="smol")
    app.text_area(key="samples").set_value(samples).run()
    button(app, "Propose").click().run()
    assert not app.exception
    assert set(app.multiselect(key="compose experts").value) == {"law@1", "code@1"}
    assert len(re.findall('class="figure"', html(app))) == 2


def test_the_address_follows_the_form_and_opens_it_again_as_it_was(filled: Registry) -> None:
    app = open_page("compose", seed="smol", experts="code@1,law@1")
    app.text_input[0].set_value("team")
    field(app, "Kind of mix").set_value("merged").run()
    app.select_slider[0].set_value(10_000).run()
    number(app, "Top-p").set_value(0.7)
    field(app, "Research trunk merge").set_value("ties")
    field(app, "Train the router").set_value(True)
    toggle(app, "Evaluate it afterwards").set_value(False)
    app.multiselect(key="compose experts").set_value(["code@1", "law@1", "cooking@1"]).run()
    assert not app.exception
    address = dict(app.query_params)
    assert address == {
        "seed": "smol",
        "experts": "code@1,law@1,cooking@1",
        "name": "team",
        "kind": "merged",
        "tokens": "10000",
        "top_p": "0.7",
        "research_trunk_merge": "ties",
        "train_router": "yes",
        "evaluate": "no",
    }
    again = open_page("compose", **address)
    assert not again.exception
    assert code(again)[-2:] == code(app)[-2:] and "compose team" in code(again)[-2]
    assert not toggle(again, "Evaluate it afterwards").value


def test_a_typed_name_survives_another_choice_of_experts(filled: Registry) -> None:
    app = open_page("compose", seed="smol", experts="code@1")
    app.text_input[0].set_value("team").run()
    for chosen in (["code@1", "law@1"], [], ["law@1"]):
        app.multiselect(key="compose experts").set_value(chosen).run()
    assert app.text_input[0].value == "team" and "compose team" in code(app)[-2]


def test_values_in_an_address_that_the_form_cannot_have_are_ignored(filled: Registry) -> None:
    wrong = {
        "kind": "merged",
        "top_k": "9",
        "tokens": "many",
        "router": "nobody",
        "z_loss": "-1",
        "train_router": "x",
    }
    app = open_page("compose", seed="smol", experts="code@1,law@1", **wrong)
    assert not app.exception and not app.error
    assert code(app)[-2] == code(merged_form())[-2]


def test_a_licence_says_what_it_means_for_the_mix(filled: Registry) -> None:
    app = open_page("compose", seed="smol", experts="code@1,law@1")
    assert "Commercial use is permitted" in captions(app)


def test_text_that_fits_no_expert_proposes_none_and_keeps_those_chosen(
    filled: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.web.recipes.CLOSE", 1.1)
    assert propose(filled, "plaintiff court", "smol") == []
    app = open_page("compose", seed="smol", experts="code@1")
    app.text_area(key="samples").set_value("plaintiff court").run()
    button(app, "Propose").click().run()
    assert "No expert of this seed fits this text" in app.info[0].value
    assert app.multiselect(key="compose experts").value == ["code@1"]
