"""The workbench: mixes side by side, only on the same text, with what made them."""

from __future__ import annotations

from typing import Any

from pages import button, captions, html, links, open_page

from composer.estimate import estimate
from composer.mix.recipe import Recipe
from registry.catalog.queries import get_mix, get_parts, record_evaluation
from registry.home import Registry
from registry.queue import claims, runs
from registry.records import Metric
from ui.web.mix_words import manifest_of
from ui.web.workbench import sizes_of
from ui.wording.display import parameters


def measured(sha256: str | None, **scores: float) -> dict[str, Any]:
    """An evaluation on code; without a digest, as in records of earlier versions."""
    text = {} if sha256 is None else {"text": {"code": {"sha256": sha256, "bytes": 60_000}}}
    routing = {"code": {"code@1": 1.0}}
    return {"bits_per_byte": {"code": scores}, "mean": scores, "routing": routing, **text}


def test_mixes_of_the_address_are_compared_by_their_facts(mixed: Registry) -> None:
    app = open_page("workbench", mixes="team@2,team@1,nobody@1")
    assert not app.exception
    assert app.query_params["mixes"] == "team@2,team@1"
    assert "code@1, law@1, cooking@1</span>" in html(app)
    assert "Read a text with team@2 and team@1" in links(app)
    assert "nm-multiples" in html(app) and "code → code@1: 50 %" in html(app)
    (again,) = [each.proto for each in app.get("page_link") if each.proto.label.replace("\\", "") == "team@2"]
    assert "experts=code%401%2Claw%401%2Ccooking%401" in again.query_string


def test_gains_are_compared_only_on_the_same_text(mixed: Registry) -> None:
    scores = {"seed": 3.0, "expert": 2.0}
    record_evaluation(mixed, "team@1", measured("a", mix=2.125, **scores))
    record_evaluation(mixed, "team@2", measured("a", mix=2.25, **scores))
    app = open_page("workbench", mixes="team@1,team@2")
    assert not app.exception
    shown = html(app)
    assert shown.count('<div class="row"') == 2 and "88 %" in shown and "75 %" in shown
    assert not app.button
    record_evaluation(mixed, "team@2", measured("b", mix=2.25, **scores))
    app = open_page("workbench", mixes="team@1,team@2")
    assert "team@1 was evaluated on different text, so it is not compared: code." in captions(app)
    button(app, "Evaluate all on the same text").click().run()
    (run,) = runs.list_runs(mixed)
    assert (run.kind, run.request) == ("evaluate", {"mix": "team@1", "against": ["team@2"]})


def test_a_domain_whose_expert_gains_nothing_has_a_reason_instead_of_bars(mixed: Registry) -> None:
    scores = {
        "code": {"mix": 2.5, "seed": 3.0, "expert": 2.0},
        "law": {"mix": 2.9, "seed": 3.0, "expert": 3.0},
    }
    text = {domain: {"sha256": "a", "bytes": 60_000} for domain in scores}
    evaluation = {"bits_per_byte": scores, "mean": {"mix": 2.7}, "routing": {}, "text": text}
    for ref in ("team@1", "team@2"):
        record_evaluation(mixed, ref, evaluation)
    for shown, bars in (
        (open_page("workbench", mixes="team@1,team@2"), 2),
        (open_page("mix", ref="team@1"), 1),
    ):
        assert not shown.exception
        assert html(shown).count("its expert has no gain over the seed") == 1
        assert html(shown).count('<div class="row"') == bars


def test_the_losses_of_the_runs_that_made_the_mixes_are_drawn_over_each_other(mixed: Registry) -> None:
    for number, mix in enumerate(("team@1", "team@2"), 1):
        runs.submit(mixed, "compose", {"recipe": {"name": "team", "seed": "smol", "experts": ["code@1"]}})
        claimed = claims.claim(mixed, "tester", 600.0)
        assert claimed is not None
        metrics = [Metric("loss", step, 3.0 / step / number) for step in (1, 2)]
        claims.report(mixed, claimed.fence, metrics=metrics)
        claims.finish(mixed, claimed.fence, "succeeded", result={"mix": mix})
    app = open_page("workbench", mixes="team@1,team@2")
    assert not app.exception
    assert "Losses" in [each.value for each in app.subheader]
    page = links(open_page("mix", ref="team@2"))
    assert "Run 2 composed it" in page and "Compose again with changes" in page


def test_weights_are_counted_as_in_the_estimate_before_composing(mixed: Registry) -> None:
    for ref in ("team@1", "team@2"):
        mix = get_mix(mixed, ref)
        seed, experts = get_parts(mixed, mix.seed, mix.experts)
        found = sizes_of(mixed, mix, manifest_of(mixed, mix))
        recipe = Recipe(name="team", seed=seed.name, experts=list(mix.experts), trunk_merge="mean")
        expected = estimate(mixed, seed, experts, recipe.model_dump(mode="json"))
        assert found is not None and (found.total, found.active) == (expected.total, expected.active)
        words = f"{parameters(found.total)}, {parameters(found.active)} active per token"
        assert words in html(open_page("mix", ref=ref))
