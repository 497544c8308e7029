"""The pages of mixes, of one mix and of the playground, on pico models."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from pages import button, captions, html, links, open_page, toggle
from streamlit.testing.v1 import AppTest

from composer.generation.sampling import Sampling
from registry.catalog.queries import get_mix, list_mixes, record_evaluation
from registry.home import Registry
from registry.queue import runs
from ui.web import models
from ui.web.models import Speaker


@pytest.mark.parametrize(
    ("page", "words"),
    [("mixes", "No mixes yet"), ("playground", "No mixes yet")],
)
def test_without_mixes_a_page_says_how_to_get_one(app_registry: Registry, page: str, words: str) -> None:
    app = open_page(page)
    assert not app.exception
    assert words in html(app)


def test_a_card_shows_the_newest_version_and_the_tree_what_was_made_from_what(mixed: Registry) -> None:
    app = open_page("mixes")
    assert not app.exception
    assert links(app)[:3] == ["team :gray[@2]", "@1", "Compare mixes"]
    assert "not evaluated yet" in html(app)
    assert links(app)[3:] == ["team@1 :gray[composed]", "└ team@2 :gray[+ cooking@1]"]


def measured(sha256: str | None, **scores: float) -> dict[str, Any]:
    """An evaluation on code; without a digest, as in records of earlier versions."""
    text = {} if sha256 is None else {"text": {"code": {"sha256": sha256, "bytes": 60_000}}}
    routing = {"code": {"code@1": 1.0}}
    return {"bits_per_byte": {"code": scores}, "mean": scores, "routing": routing, **text}


def test_a_table_says_how_much_text_it_is_of_and_when_nobody_knows(mixed: Registry) -> None:
    assert "Bits per byte on unknown text" in html(open_page("mix", ref="team@1"))
    record_evaluation(mixed, "team@1", measured("a", mix=2.125))
    assert "Bits per byte on 60 kB of text" in html(open_page("mix", ref="team@1"))


def test_a_mix_shows_its_scores_its_routing_and_its_lineage(mixed: Registry) -> None:
    app = open_page("mix", ref="team@1")
    assert not app.exception
    shown = html(app)
    assert shown.count('class="best"') == 3  # each domain's, and the mean's
    assert "75 %" in shown and "mean over blocks" in shown
    assert "&lt;b&gt;law" in shown and "<b>law" not in shown
    assert {"team@1 :gray[composed]", "└ team@2 :gray[+ cooking@1]"} <= set(links(app))
    app.select_slider(key="block").set_value(2).run()
    assert "block 2 of 2" in html(app) and "100 %" in html(app)


def test_a_mix_shows_the_tasks_that_were_run_on_it(mixed: Registry) -> None:
    assert "<caption>Tasks" not in html(open_page("mix", ref="team@1"))
    measured = dict(get_mix(mixed, "team@1").evaluation or {})
    metrics = {"seed": {"acc,none": 0.25, "acc_stderr,none": 0.05}, "mix": {"acc,none": 0.5}, "law@1": {}}
    measured["tasks"] = {"<i>riddles": {"limit": 20, "metrics": metrics}}
    record_evaluation(mixed, "team@1", measured)
    shown = html(open_page("mix", ref="team@1"))
    assert "the first 20 examples only" in shown
    assert (
        '<th scope="row">&lt;i&gt;riddles · acc</th><td>0.250 ± 0.050</td><td>0.500</td><td>–</td>' in shown
    )


def test_a_mix_that_was_never_measured_and_one_that_does_not_exist_say_so(mixed: Registry) -> None:
    assert "Not evaluated yet" in html(open_page("mix", ref="team@2"))
    assert "Not found" in html(open_page("mix", ref="nobody@1"))
    assert "No mix chosen" in html(open_page("mix"))


@pytest.mark.parametrize(
    ("name", "kind", "request_"),
    [
        ("Evaluate it", "evaluate", {"mix": "team@1", "against": []}),
        (
            "Compose without it",
            "remove",
            {"mix": "team@1", "expert": "code@1", "evaluate": True},
        ),
        (
            "Extend it",
            "extend",
            {
                "mix": "team@1",
                "expert": "cooking@1",
                "training": {"tokens": 0, "load_balance": 0.01},
                "evaluate": True,
            },
        ),
    ],
)
def test_the_buttons_of_a_mix_queue_runs(
    mixed: Registry, name: str, kind: str, request_: dict[str, Any]
) -> None:
    button(open_page("mix", ref="team@1"), name).click().run()
    (run,) = runs.list_runs(mixed)
    assert (run.kind, run.request) == (kind, request_)


def test_an_export_is_queued_for_a_new_folder_only(mixed: Registry, tmp_path: Path) -> None:
    app = open_page("mix", ref="team@1")
    app.text_input[0].set_value(str(tmp_path))
    button(app, "Export it").click().run()
    assert len(app.error) == 1 and not runs.list_runs(mixed)
    app = open_page("mix", ref="team@1")
    app.text_input[0].set_value(str(tmp_path / "new"))
    button(app, "Export it").click().run()
    (run,) = runs.list_runs(mixed)
    assert run.request.pop("roots")
    assert run.request == {"mix": "team@1", "out": str(tmp_path / "new"), "format": "nexus"}


@pytest.mark.parametrize("folder", ["/etc/new", "/proc/new", "", "link/new"])
def test_an_export_outside_the_roots_is_refused_under_its_field_and_the_page_stays(
    folder: str, mixed: Registry, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("/etc")
    app = open_page("mix", ref="team@1")
    app.text_input[0].set_value(str(tmp_path / folder) if folder.startswith("link") else folder)
    button(app, "Export it").click().run()
    assert len(app.error) == 1 and not app.exception and not runs.list_runs(mixed)
    assert "mean over blocks" in html(app) and "Lock:" in captions(app)
    assert app.text_input[0].value.endswith(folder)


def test_a_mix_is_deleted_when_nothing_was_made_from_it(mixed: Registry) -> None:
    assert any("Delete them first\\: team\\@2" in info.value for info in open_page("mix", ref="team@1").info)
    button(open_page("mix", ref="team@2"), "Delete team\\@2").click().run()
    assert [mix.ref for mix in list_mixes(mixed)] == ["team@1"]
    assert "was deleted on" in html(open_page("mix", ref="team@2"))


def test_the_playground_colours_each_token_by_its_expert(mixed: Registry) -> None:
    app = open_page("playground", mix="team@1")
    assert not app.exception
    button(app, "Generate").click().run()
    assert "Enter a prompt first" in app.error[0].value
    app.text_area(key="playground prompt").set_value("def <main>").run()
    app.slider[1].set_value(8).run()
    button(app, "Generate").click().run()
    assert not app.exception
    shown = html(app)
    assert 1 <= shown.count('class="alts"') <= 8  # each generated token knows its alternatives
    assert shown.count('class="tok"') > shown.count('class="alts"')  # the prompt is coloured too
    assert "&lt;" in shown and "<main" not in shown
    assert "nm-shares" in shown and "tokens/s" in captions(app)
    assert app.query_params["prompt"] == "def <main>" and app.query_params["length"] == "8"


def test_a_masked_expert_gets_no_token_and_masking_is_called_what_it_is(mixed: Registry) -> None:
    app = open_page("playground", mix="team@1")
    app.text_area(key="playground prompt").set_value("court").run()
    app.slider[1].set_value(8).run()
    toggle(app, "code@1").set_value(False).run()
    assert "Masking is not removal" in captions(app)
    button(app, "Generate").click().run()
    assert not app.exception
    assert "law@1 100 %" in html(app) and "code@1 " not in html(app)
    toggle(app, "law@1").set_value(False).run()
    assert button(app, "Generate").disabled
    button(app, "Release models").click().run()
    assert not app.exception


def played(app: AppTest) -> AppTest:
    """The page after at most eight tokens were generated."""
    app.text_area(key="playground prompt").set_value("court").run()
    app.slider[1].set_value(8).run()
    button(app, "Generate").click().run()
    assert not app.exception
    return app


def test_the_seed_or_another_mix_writes_next_to_a_mix(mixed: Registry) -> None:
    app = played(open_page("playground", mix="team@1", beside="seed"))
    assert app.query_params["beside"] == "seed"
    assert html(app).count("nm-written") == 2
    assert html(app).count("nm-shares") == 1  # a seed has no experts
    app.selectbox(key="playground beside").set_value("team@2").run()
    assert "Generated text appears here" in html(app)
    button(app, "Generate").click().run()
    assert not app.exception
    assert html(app).count("nm-shares") == 2
    app.selectbox(key="playground beside").set_value("").run()
    assert "beside" not in app.query_params


def test_a_late_address_does_not_undo_the_choice_of_a_mix(mixed: Registry) -> None:
    app = open_page("playground", mix="team@1")
    app.selectbox(key="playground mix").set_value("team@2").run()
    app.query_params["mix"] = "team@1"
    app.text_area(key="playground prompt").set_value("court").run()
    assert app.selectbox(key="playground mix").value == "team@2"
    assert app.query_params["mix"] == "team@2"


def test_a_token_is_shown_by_one_block_or_by_every_block(mixed: Registry) -> None:
    app = played(open_page("playground", mix="team@1"))
    app.select_slider(key="played_block").set_value(2).run()
    assert not app.exception
    assert 'class="tok"' in html(app)
    assert "nm-grid" not in html(app)
    toggle(app, "Every block").set_value(True).run()
    assert '<th scope="row">block 2</th>' in html(app)


def test_a_model_is_free_again_when_its_writing_is_broken_off(mixed: Registry) -> None:
    def stream() -> Generator[tuple[Speaker, Any], None, None]:
        return models.write(
            mixed,
            {Speaker("team@1"): "court", Speaker("smol", is_seed=True): "court"},
            Sampling(max_new_tokens=3, temperature=0.0),
            active_experts=["law@1"],
        )

    broken_off = stream()
    next(broken_off)
    broken_off.close()
    assert len(list(stream())) <= 6


def test_an_address_that_names_no_second_model_selects_none(mixed: Registry) -> None:
    app = open_page("playground", mix="team@1", beside="nobody@9")
    assert not app.exception
    assert app.selectbox(key="playground beside").value == ""


def test_an_expert_links_to_the_mixes_that_contain_it_and_to_composing_one(mixed: Registry) -> None:
    app = open_page("expert", ref="law@1")
    assert not app.exception
    shown = set(links(app))
    assert {
        "team@1 :gray[keeps 92 % of the gain]",
        "team@2 :gray[not evaluated]",
        "Compose a mix with it",
    } <= shown
