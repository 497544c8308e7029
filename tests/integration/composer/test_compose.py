"""Composing, extending and removing on a real registry with pico experts and the real trainer."""

import json
import subprocess
import sys

import pico
import pytest
import torch

from composer.composition import compose, compose_lock
from composer.errors import IncompatibleExpertsError, RecipeError
from composer.evaluation.evaluate import evaluate
from composer.evaluation.report import write_report
from composer.extension import extend, extend_lock, remove
from composer.gathering import first_lock as find_lock
from composer.generation import generate
from composer.mix.lock import Lock
from composer.mix.opening import find_mix, open_mix
from composer.mix.recipe import Recipe, Training
from composer.tensors.torch_blobs import map_tensors
from composer.trunks.mean_with_seed import MeanWithSeed
from composer.trunks.ties import Ties
from registry.catalog import queries
from registry.errors import LicenseError, NotFoundError
from registry.home import open_registry
from registry.intake.intake import add_seed, contribute

UNTRAINED = Training(warm_start=False, tokens=0)
SHORT = Training(tokens=2048, sequence_length=64, batch_tokens=512, learning_rate=1e-3)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A registry with a seed and four experts: three with text, `law` with its embedding only."""
    from registry.domains.embedders import load_embedder
    from registry.domains.embedding import embed_domain, save_embedding

    root = tmp_path_factory.mktemp("composing")
    registry = open_registry(root / "home", embedder="hashing:16")
    seed = pico.write_pico(root / "seed")
    add_seed(registry, "pico", seed, license="Apache-2.0")
    for number, name in enumerate(("code", "math", "cooking"), 1):
        folder = pico.branch_pico(seed, root / name, seed=number, roles="ffn" if name == "math" else "all")
        data = pico.write_documents(root / f"{name}.jsonl", name)
        contribute(registry, name, folder, seed="pico", license="MIT", data=[data])
    law, _ = embed_domain(load_embedder("hashing:16"), pico.domain_documents("law"))
    save_embedding(root / "law.json", law)
    folder = pico.branch_pico(seed, root / "law", seed=4)
    contribute(registry, "law", folder, seed="pico", license="GPL-3.0-only", embedding=root / "law.json")
    registry.engine.dispose()
    return root / "home"


@pytest.fixture
def registry(home):
    opened = open_registry(home, embedder="hashing:16")
    yield opened
    opened.engine.dispose()


def recipe(name="pair", experts=("code", "math"), training=UNTRAINED, **settings):
    settings = {"trunk_merge": "regmean", **settings}
    return Recipe(name=name, seed="pico", experts=list(experts), training=training, **settings)


def test_composing_writes_the_trunk_and_the_router_and_refers_to_the_experts_ffns(registry):
    before = set(registry.blobs.iter_digests())
    result = compose(registry, recipe())
    new = set(registry.blobs.iter_digests()) - before
    manifest = result.manifest
    assert new == {manifest.trunk, manifest.router, manifest.lock, result.mix.manifest}
    assert [m.ffn for m in manifest.members] == [
        queries.get_expert(registry, n).ffn for n in ("code", "math")
    ]
    assert result.bytes_written == sum(registry.blobs.size(digest) for digest in new)


def test_the_papers_trunk_is_the_mean_of_the_experts_trunks(registry):
    manifest = compose(registry, recipe(trunk_merge="mean")).manifest
    experts = [queries.get_expert(registry, name) for name in ("code", "math")]
    code, math = (map_tensors(registry.blobs.path(e.trunk)) for e in experts)
    merged = map_tensors(registry.blobs.path(manifest.trunk))
    assert experts[1].anchored and not experts[0].anchored
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, (code[name] + math[name]) / 2)


def test_the_same_recipe_gives_the_same_digests_under_another_name_and_in_a_fresh_process(registry, home):
    first = compose(registry, recipe("one", training=SHORT))
    script = (
        "import json, sys; from pathlib import Path; from composer.composition import compose_lock; "
        "from composer.mix.lock import Lock; from registry.home import open_registry; "
        "r = open_registry(Path(sys.argv[1]), embedder='hashing:16'); "
        "lock = Lock.model_validate(json.loads(r.blobs.read_bytes(sys.argv[2]))); "
        "print(compose_lock(r, lock, 'two').mix.manifest)"
    )
    command = [sys.executable, "-c", script, str(home), first.mix.lock]
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.split()[-1] == first.mix.manifest


def test_a_fine_tune_with_frozen_ffns_writes_no_ffn_blob(registry):
    training = SHORT.model_copy(update={"train": "trunk"})
    manifest = compose(registry, recipe("frozen", training=training)).manifest
    assert [m.ffn for m in manifest.members] == [m.expert.ffn for m in manifest.members]
    assert manifest.shared == manifest.seed.ffn


def test_a_fine_tune_of_everything_stores_what_it_trained_and_opens_again(registry):
    unguided = SHORT.model_copy(update={"guidance": 0.0})
    manifest = compose(registry, recipe("trained", training=unguided)).manifest
    assert all(m.ffn != m.expert.ffn for m in manifest.members)
    assert manifest.training["last_loss"] < manifest.training["first_loss"]
    opened = open_mix(registry, manifest)
    with torch.inference_mode():
        assert torch.isfinite(opened.model(torch.tensor([[5, 6, 7]])).logits).all()


def test_the_warm_start_sends_each_domain_to_its_own_expert(registry):
    cold = compose(registry, recipe("cold")).mix.ref
    warm = compose(registry, recipe("warm", training=Training(tokens=0))).mix.ref
    cold_shares, warm_shares = (evaluate(registry, ref)["routing"] for ref in (cold, warm))
    own = [warm_shares[name][f"{name}@1"] for name in ("code", "math")]
    assert min(own) > 0.8
    assert sum(own) > sum(cold_shares[name][f"{name}@1"] for name in ("code", "math"))


def test_a_warm_start_fits_the_trunk_to_the_experts_text_and_a_cold_mix_has_the_mean(registry):
    start = Training(tokens=0)
    cold = compose(registry, recipe("averaged", ("code", "cooking"))).manifest
    result = compose(registry, recipe("fitted", ("code", "cooking"), start))
    warm = result.manifest
    assert set(result.stage_seconds) == {"trunk", "router"}
    chosen = compose(
        registry, recipe("chosen", ("code", "cooking"), start, trunk_merge="mean_with_seed")
    ).manifest
    assert chosen.trunk == cold.trunk != warm.trunk
    assert warm.training["warm_start"]["tokens"] > chosen.training["warm_start"]["tokens"]
    # The rows of the embeddings depend on the text; the norms are those of the merge.
    fitted, mean = (map_tensors(registry.blobs.path(m.trunk)) for m in (warm, cold))
    assert torch.equal(fitted["model.norm.weight"], mean["model.norm.weight"])
    assert not torch.equal(fitted["model.embed_tokens.weight"], mean["model.embed_tokens.weight"])


def test_the_trunk_of_an_anchored_expert_is_not_fitted(registry):
    manifest = compose(registry, recipe("anchored", ("math",), Training(tokens=0))).manifest
    assert manifest.trunk == manifest.seed.trunk


def test_extension_fits_the_trunk_between_the_mix_and_the_new_expert(registry):
    start = Training(tokens=0)
    old = compose(registry, recipe("widening", training=start)).manifest
    new = extend(registry, "widening", "cooking", training=start).manifest
    merged = extend(registry, "widening@1", "cooking", training=UNTRAINED).manifest
    assert len({old.trunk, new.trunk, merged.trunk}) == 3


def test_a_mix_of_an_expert_without_text_composes_with_a_warm_start_and_a_fine_tune(registry):
    result = compose(registry, recipe("private", ("code", "law"), SHORT, license_override="a test"))
    assert result.manifest.training["tokens"] == SHORT.tokens
    evaluation = evaluate(registry, result.mix.ref)
    assert list(evaluation["bits_per_byte"]) == ["code"]
    assert "changing" not in evaluation  # nothing is known of the other's text


def test_extending_keeps_the_routers_projection_and_merges_the_trunk_by_the_papers_share(registry):
    old = compose(registry, recipe("growing"))
    new = extend(registry, "growing", "cooking", training=UNTRAINED)
    assert (new.mix.ref, new.mix.parent) == ("growing@2", "growing@1")
    before, after = (map_tensors(registry.blobs.path(m.manifest.router)) for m in (old, new))
    for layer in range(2):
        for weight in ("w1", "w2"):
            assert torch.equal(after[f"layers.{layer}.{weight}"], before[f"layers.{layer}.{weight}"])
        assert torch.equal(after[f"layers.{layer}.domains"][:2], before[f"layers.{layer}.domains"])
        assert after[f"layers.{layer}.domains"].shape[0] == 3
    expert = map_tensors(registry.blobs.path(queries.get_expert(registry, "cooking").trunk))
    trunks = [map_tensors(registry.blobs.path(m.manifest.trunk)) for m in (old, new)]
    for name, tensor in trunks[1].items():
        torch.testing.assert_close(tensor, trunks[0][name] * 2 / 3 + expert[name] / 3)


def test_gates_with_context_compose_extend_and_recompose_to_the_same_digests(registry):
    warm = Training(tokens=0, train_router=False)  # so that an extension keeps the old embeddings
    old = compose(registry, recipe("seeing", ("code", "math"), warm, router="nexus_context"))
    shares = evaluate(registry, old.mix.ref)["routing"]
    assert min(shares[name][f"{name}@1"] for name in ("code", "math")) > 0.8
    new = extend(registry, "seeing", "cooking", training=warm)
    lock = Lock.model_validate(json.loads(registry.blobs.read_bytes(new.mix.lock)))
    assert extend_lock(registry, lock, "seeing-again", parent=None).mix.manifest == new.mix.manifest
    models = [open_mix(registry, m.manifest).model for m in (old, new)]
    for before, after in zip(*(model.mixtures() for model in models), strict=True):
        assert torch.equal(after.router.directions[:2], before.router.directions)
        assert after.router.directions[2].any()
        first, second = before.router.gate().detach(), after.router.gate().detach()
        torch.testing.assert_close(second[:2, : first.shape[1]], first, rtol=1e-3, atol=1e-3)
        assert second[:2, first.shape[1] :].abs().max() < 1e-3


def test_recomposing_an_extensions_lock_gives_the_same_manifest(registry):
    compose(registry, recipe("locked"))
    extended = extend(registry, "locked", "cooking", training=SHORT)
    lock = Lock.model_validate(json.loads(registry.blobs.read_bytes(extended.mix.lock)))
    assert extend_lock(registry, lock, "locked-again", parent=None).mix.manifest == extended.mix.manifest


def test_removing_an_expert_gives_the_same_mix_as_composing_without_it(registry):
    compose(registry, recipe("three", ("code", "math", "cooking"), Training(tokens=0)))
    removed = remove(registry, "three", "math")
    fresh = compose(registry, recipe("two-left", ("code", "cooking"), Training(tokens=0)))
    assert removed.mix.manifest == fresh.mix.manifest
    gone = queries.get_expert(registry, "math")
    texts = [registry.blobs.read_bytes(d).decode() for d in (removed.mix.manifest, removed.mix.lock)]
    for digest in (gone.ffn, gone.sample, gone.chunk_vectors):
        assert all(digest not in text for text in texts)


def test_a_removal_may_have_other_tokens_than_the_first_composition(registry):
    recipe = Recipe(
        name="others", seed="pico", experts=["code", "math"], trunk_merge="mean", training=UNTRAINED
    )
    compose(registry, recipe)
    trained = remove(registry, "others@1", "math", tokens=1024)
    assert trained.manifest.training["tokens"] == 1024
    whole = compose(registry, Recipe(name="wholes", seed="pico", experts=["code", "math"]))
    again = remove(registry, whole.mix.ref, "math", tokens=1024).manifest
    usual = Recipe(name="usual", seed="pico", experts=["code"], training=Training(tokens=1024)).training
    assert find_lock(registry, again).composed.training == usual


def test_removing_from_an_extended_mix_leaves_no_trace_of_the_expert_in_the_trunk(registry):
    compose(registry, recipe("base", ("code", "math")))
    extend(registry, "base", "cooking", training=UNTRAINED)
    removed = remove(registry, "base@2", "cooking")
    assert removed.manifest.trunk == find_mix(registry, "base@1")[1].trunk
    assert removed.mix.parent == "base@2"


def test_evaluation_compares_seed_experts_dense_merging_and_other_mixes(registry):
    compose(registry, recipe("compared", training=SHORT))
    compose(registry, recipe("other", router="linear"))
    result = evaluate(registry, "compared", against=["other"])
    assert result["bits_per_byte"].keys() == {"code", "math"}
    for row in result["bits_per_byte"].values():
        assert row.keys() == {"seed", "expert", "btm", "dense_merging", "mix", "other@1"}
        assert row["mix"] < row["seed"]
        assert row["btm"] == pytest.approx(row["expert"])  # the words of these domains differ wholly
    changing = result["changing"]
    assert changing["bits_per_byte"].keys() == row.keys()
    assert changing["bits_per_byte"]["expert"] < changing["bits_per_byte"]["btm"]
    assert "before" in changing["by_distance"] and 0 <= changing["own"] <= 1
    for shares in result["routing"].values():
        assert sum(shares.values()) == pytest.approx(1)
    assert queries.get_mix(registry, "compared").evaluation == result


def test_an_evaluation_carries_the_signature_of_its_text_and_a_report_says_where_texts_differ(
    registry, tmp_path
):
    for name in ("one", "two"):
        compose(registry, recipe(name))
    one, two = (evaluate(registry, name, max_bytes=2000) for name in ("one", "two"))
    assert one["text"] == two["text"] and one["text"].keys() == one["bits_per_byte"].keys()
    assert all(0 < text["bytes"] <= 2000 and len(text["sha256"]) == 64 for text in one["text"].values())
    report = write_report(registry, ["one", "two"], tmp_path / "report.html").read_text()
    assert "same text" not in report and f"{sum(t['bytes'] for t in one['text'].values()):,} bytes" in report
    less = evaluate(registry, "two", max_bytes=500)
    assert all(less["text"][domain] != text for domain, text in one["text"].items())
    report = write_report(registry, ["one", "two"], tmp_path / "report.html").read_text()
    assert "measured on the same text</strong> (code, math)" in report
    without = {
        name: value for name, value in less.items() if name != "text"
    }  # as in the records of earlier versions
    queries.record_evaluation(registry, "two", without)
    assert "same text" in write_report(registry, ["one", "two"], tmp_path / "report.html").read_text()


def test_the_oracle_is_the_expert_itself_where_nothing_was_merged(registry):
    compose(registry, recipe("ceiling", ("math", "law"), trunk_merge="seed", license_override="a test"))
    row = evaluate(registry, "ceiling", oracle=True)["bits_per_byte"]["math"]
    assert row["oracle"] == pytest.approx(row["expert"], abs=1e-6)  # math is anchored
    assert row["mix"] > row["oracle"]


def test_generation_with_a_seed_repeats_and_names_the_experts_of_each_token(registry):
    compose(registry, recipe("talking"))
    one, two = (generate(registry, "talking", "def ", max_new_tokens=8, random_seed=3) for _ in range(2))
    assert one == two
    assert all(set(token.experts) == {"code@1", "math@1"} for token in one.tokens)


def test_an_unknown_expert_is_not_found_before_anything_is_written(registry):
    before = list(registry.blobs.iter_digests())
    with pytest.raises(NotFoundError, match="nobody"):
        compose(registry, recipe(experts=("code", "nobody")))
    assert list(registry.blobs.iter_digests()) == before


def test_licences_that_forbid_each_other_block_a_mix_unless_overridden_with_a_reason(registry, tmp_path):
    seed = pico.write_pico(tmp_path / "seed")
    add_seed(registry, "gpl2", seed, license="GPL-2.0-only")
    data = pico.write_documents(tmp_path / "code.jsonl", "code")
    contribute(registry, "gpl3", seed, seed="gpl2", license="GPL-3.0-only", data=[data], allow_unchanged=True)
    blocked = Recipe(name="blocked", seed="gpl2", experts=["gpl3"], training=UNTRAINED)
    with pytest.raises(LicenseError, match="gpl3"):
        compose(registry, blocked)
    result = compose(registry, blocked.model_copy(update={"license_override": "owned by us"}))
    assert result.manifest.license_override == "owned by us"


def test_an_expert_of_another_seed_is_refused_by_name(registry, tmp_path):
    add_seed(registry, "other-seed", pico.write_pico(tmp_path / "seed", seed=9), license="MIT")
    with pytest.raises(IncompatibleExpertsError, match="code@1 is an expert of the seed pico"):
        compose(registry, Recipe(name="x", seed="other-seed", experts=["code"], training=UNTRAINED))


def test_a_recipe_names_every_wrong_field():
    with pytest.raises(RecipeError) as error:
        Recipe.parse({"name": "x", "seed": "pico", "experts": ["a", "a"], "router": "magic", "colour": "red"})
    assert all(field in str(error.value) for field in ("experts", "router", "colour"))


def test_a_recipe_survives_its_yaml(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe(training=SHORT, top_k=2).to_yaml())
    assert Recipe.from_yaml(path) == recipe(training=SHORT, top_k=2)
    assert Recipe.from_yaml(path, name="other").name == "other"


def test_a_weighted_merge_survives_extension_and_removal_with_each_experts_own_weight(registry):
    weighted = {"method": "weighted", "weights": [3, 1]}
    compose(registry, recipe("weighed", trunk_merge=weighted))
    extend(registry, "weighed", "cooking", training=UNTRAINED)
    removed = remove(registry, "weighed", "math")
    # Cooking was added with a share of 1/3: its weight is the mean of 3 and 1.
    fresh = recipe("weighed-anew", ("code", "cooking"), trunk_merge={"method": "weighted", "weights": [3, 2]})
    assert removed.mix.manifest == compose(registry, fresh).mix.manifest


def test_a_lock_that_names_its_trunk_merge_by_a_word_composes_to_the_same_trunk(registry):
    result = compose(registry, recipe("worded", trunk_merge="mean_with_seed"))
    lock = Lock.model_validate(json.loads(registry.blobs.read_bytes(result.mix.lock)))
    assert lock.composed.trunk_merge == MeanWithSeed()
    worded = lock.model_copy(
        update={"settings": lock.composed.model_copy(update={"trunk_merge": "mean_with_seed"})}
    )
    assert compose_lock(registry, worded, "worded-again").manifest.trunk == result.manifest.trunk


def test_the_lock_pins_the_parameters_of_the_trunk_merge(registry):
    chosen = compose(registry, recipe("tied", trunk_merge={"method": "ties", "density": 0.5}))
    lock = Lock.model_validate(json.loads(registry.blobs.read_bytes(chosen.mix.lock)))
    assert lock.composed.trunk_merge == Ties(density=0.5, scale=1.0)
    assert compose_lock(registry, lock, "tied-again").mix.manifest == chosen.mix.manifest
    denser = compose(registry, recipe("denser", trunk_merge={"method": "ties", "density": 1.0}))
    assert denser.manifest.trunk != chosen.manifest.trunk


@pytest.mark.parametrize(
    "settings, changes",
    [
        ({"warm_start": True}, False),
        ({"warm_start": False}, True),
        ({"warm_start": True, "train_router": True}, True),
        ({"warm_start": False, "train_router": False}, False),
    ],
)
def test_a_fine_tune_does_not_change_a_warm_started_router_by_default(registry, settings, changes):
    start = Training(tokens=0, warm_start=settings["warm_start"])
    before = compose(registry, recipe("start", training=start)).manifest.router
    after = compose(registry, recipe("tuned", training=SHORT.model_copy(update=settings))).manifest.router
    # W1 changes only by training; W2 is solved again after a fine-tune, for the new states of the model.
    hidden = [map_tensors(registry.blobs.path(router))["layers.0.w1"] for router in (before, after)]
    assert (not torch.equal(*hidden)) == changes
