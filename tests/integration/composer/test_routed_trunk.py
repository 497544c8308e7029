"""Mixes whose trunk is routed: composed without a gradient step, extended, recomposed, taken apart."""

import dataclasses
import shlex

import pico
import pytest
import torch

from composer.composition import compose, compose_lock
from composer.errors import ExportError, MissingTextError, RecipeError
from composer.evaluation.evaluate import evaluate
from composer.experts.closed import shared_profile
from composer.extension import extend, extend_lock, remove
from composer.formats import export
from composer.gathering import first_lock
from composer.generation import generate
from composer.mix.opening import find_mix, open_dense, open_mix, read_manifest
from composer.mix.presets import with_preset
from composer.mix.recipe import Recipe, Training
from composer.model.modeling import forced
from composer.routed_trunk import strengths
from composer.routed_trunk.strengths import best_strength
from composer.tensors.torch_blobs import map_tensors
from registry.catalog import queries
from registry.domains import documents
from registry.domains.token_profile import check_profile
from registry.errors import InvalidEmbeddingError
from registry.home import open_registry
from registry.intake.intake import add_seed, contribute


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Three experts with text, one without, and a seed with a sample of general text."""
    from registry.domains.embedders import load_embedder
    from registry.domains.embedding import embed_domain, save_embedding

    root = tmp_path_factory.mktemp("routed")
    registry = open_registry(root / "home", embedder="hashing:16")
    seed = pico.write_pico(root / "seed")
    general = pico.write_documents(root / "law.jsonl", "law")
    add_seed(registry, "pico", seed, license="Apache-2.0", data=[general])
    for number, name in enumerate(("code", "math", "cooking"), 1):
        folder = pico.branch_pico(seed, root / name, seed=number)
        data = pico.write_documents(root / f"{name}.jsonl", name, 200)
        contribute(registry, name, folder, seed="pico", license="MIT", data=[data])
    folder = pico.branch_pico(seed, root / "noisy", seed=5, scale=0.5)
    data = pico.write_documents(root / "noisy.jsonl", "code", 200)
    contribute(registry, "noisy", folder, seed="pico", license="MIT", data=[data], allow_unrelated=True)
    closed, _ = embed_domain(load_embedder("hashing:16"), pico.domain_documents("law"))
    save_embedding(root / "closed.json", closed)
    folder = pico.branch_pico(seed, root / "closed", seed=4)
    contribute(registry, "closed", folder, seed="pico", license="MIT", embedding=root / "closed.json")
    private = pico.domain_documents("cooking", 200)
    signature, _ = embed_domain(load_embedder("hashing:16"), private)
    profile = shared_profile(registry, queries.get_seed(registry, "pico"), private)
    save_embedding(root / "signed.json", dataclasses.replace(signature, profile=profile))
    folder = pico.branch_pico(seed, root / "signed", seed=6)
    contribute(registry, "signed", folder, seed="pico", license="MIT", embedding=root / "signed.json")
    registry.engine.dispose()
    return root / "home"


@pytest.fixture
def registry(home):
    opened = open_registry(home, embedder="hashing:16")
    yield opened
    opened.engine.dispose()


def recipe(name, experts=("code", "math"), **settings):
    return Recipe.parse(
        {"name": name, "seed": "pico", "experts": list(experts), "trunk_merge": "routed", **settings}
    )


def text_of(domain):
    return " ".join(pico.domain_documents(domain, count=3, seed=9))


def shares(registry, mix, text):
    """The share of the text's tokens that each choice computes, the seed last."""
    ids = mix.tokenizer(text, return_tensors="pt")["input_ids"][:, :200]
    with torch.inference_mode():
        mix.model(ids)
    return (mix.model.router.routing.counts() / ids.numel()).tolist()


def test_composing_writes_the_router_alone_and_refers_to_everything_else(registry):
    before = set(registry.blobs.iter_digests())
    result = compose(registry, recipe("alone"))
    new = set(registry.blobs.iter_digests()) - before
    manifest = result.manifest
    assert new == {manifest.router, manifest.lock, result.mix.manifest}
    assert (manifest.trunk, manifest.shared) == (manifest.seed.trunk, manifest.seed.ffn)
    assert all(m.expert.trunk in manifest.blobs() for m in manifest.members)


def test_text_goes_to_the_expert_of_its_domain_and_general_text_to_the_seed(registry):
    mix = open_mix(registry, compose(registry, recipe("domains")).manifest)
    for place, domain in enumerate(("code", "math", "law")):
        assert shares(registry, mix, text_of(domain))[place] > 0.9


def test_after_a_change_of_domain_the_router_follows(registry):
    mix = open_mix(registry, compose(registry, recipe("changing")).manifest)
    ids = [mix.tokenizer(text_of(d), return_tensors="pt")["input_ids"][0, :100] for d in ("code", "math")]
    with torch.inference_mode():
        mix.model(torch.cat(ids)[None])
    chosen = mix.model.router.routing.chosen[:, 0]
    assert (chosen[50:100] == 0).float().mean() > 0.9
    assert (chosen[140:200] == 1).float().mean() > 0.9


def test_equal_locks_give_equal_mixes_and_an_extension_can_be_recomposed(registry):
    first = compose(registry, recipe("one"))
    again = compose_lock(registry, first_lock(registry, first.manifest), "again")
    assert again.mix.manifest == first.mix.manifest
    extended = extend(registry, first.mix.ref, "cooking")
    from json import loads

    from composer.mix.lock import Lock

    lock = Lock.model_validate(loads(registry.blobs.read_bytes(extended.manifest.lock)))
    assert extend_lock(registry, lock, "twin", parent=first.mix.ref).mix.manifest == extended.mix.manifest


def test_an_extension_changes_nothing_of_the_old_experts(registry):
    first = compose(registry, recipe("grows"))
    second = extend(registry, first.mix.ref, "cooking")
    assert second.manifest.members[:2] == first.manifest.members
    before, after = (map_tensors(registry.blobs.path(r.manifest.router)) for r in (first, second))
    for name in ("context.unigrams", "context.bigrams"):
        assert torch.equal(
            after[name][:, [0, 1, 3]], before[name]
        )  # column 2 is the new one, the seed's the last
    mix = open_mix(registry, second.manifest)
    for place, domain in enumerate(("code", "math", "cooking", "law")):
        assert shares(registry, mix, text_of(domain))[place] > 0.9


def test_a_removed_expert_leaves_no_trace(registry):
    both = compose(registry, recipe("shrinks", ("code", "math", "cooking")))
    rest = remove(registry, both.mix.ref, "math")
    fresh = compose(registry, recipe("fresh", ("code", "cooking")))
    assert rest.manifest.members == fresh.manifest.members
    assert rest.manifest.router == fresh.manifest.router


def test_a_strength_moves_every_parameter_between_the_seed_and_the_expert(registry):
    manifest = compose(registry, recipe("strong")).manifest
    members = [manifest.members[0].model_copy(update={"strength": 0.5}), manifest.members[1]]
    mix = open_mix(registry, manifest.model_copy(update={"members": members})).model
    seed, expert = manifest.seed, members[0].expert
    dense = open_dense(registry, seed, seed.ffn, seed.trunk)
    end = open_dense(registry, seed, expert.ffn, expert.trunk).state_dict()
    dense.load_state_dict({name: (t + end[name]) / 2 for name, t in dense.state_dict().items()}, assign=True)
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode(), forced(mix, 0):
        torch.testing.assert_close(mix(ids).logits, dense(ids).logits, atol=1e-5, rtol=0)


def test_a_noisy_experts_strength_is_found_on_text_that_nothing_trains_on(registry, monkeypatch):
    """Noise helps nobody: among the strengths tried, the least noisy is best."""
    asked = []
    real = documents.is_for_choices
    monkeypatch.setattr(documents, "is_for_choices", lambda text: asked.append(text) or real(text))
    manifest = compose(registry, recipe("noise", ("noisy",))).manifest
    assert asked
    assert [m.strength for m in manifest.members] == [0.25]
    assert manifest.training["strengths"] == {"noisy@1": 0.25}
    cold = compose(registry, recipe("cold", ("noisy",), training={"warm_start": False})).manifest
    assert [m.strength for m in cold.members] == [1.0]


def test_an_owner_measures_the_strength_that_an_expert_with_text_would_get(home, registry, tmp_path):
    """The same weights and text: once contributed with the text, once with a profile in its place."""
    from registry.domains.embedders import load_embedder
    from registry.domains.embedding import embed_domain, load_embedding, save_embedding

    private = pico.domain_documents("code", 200)
    folder = home.parent / "noisy"
    found = shared_profile(registry, queries.get_seed(registry, "pico"), private, folder)
    assert found.strength == 0.25
    signature, _ = embed_domain(load_embedder("hashing:16"), private)
    save_embedding(tmp_path / "signed.json", dataclasses.replace(signature, profile=found))
    assert load_embedding(tmp_path / "signed.json").profile.strength == 0.25
    contribute(
        registry,
        "private",
        folder,
        seed="pico",
        license="MIT",
        embedding=tmp_path / "signed.json",
        allow_unrelated=True,
    )
    open_text, closed = (compose(registry, recipe(f"of-{n}", (n,))).manifest for n in ("noisy", "private"))
    assert [m.strength for m in closed.members] == [m.strength for m in open_text.members] == [0.25]


def test_an_owner_measures_a_strength_on_more_text_than_a_composition(home, registry, monkeypatch):
    sizes = []

    def windows(tokenizer, texts, **settings):
        sizes.append(settings["max_bytes"])
        return strengths_windows(tokenizer, texts, **settings)

    strengths_windows = strengths.windows
    monkeypatch.setattr(strengths, "windows", windows)
    monkeypatch.setattr(strengths, "bits_per_byte", lambda *_, **__: 1.0)
    private = pico.domain_documents("code", 200)
    shared_profile(registry, queries.get_seed(registry, "pico"), private, home.parent / "noisy")
    assert sizes == [strengths.OWNER_BYTES] and strengths.OWNER_BYTES >= 4 * strengths.MEASURED_BYTES


def test_a_strength_out_of_range_is_refused(registry):
    seed = queries.get_seed(registry, "pico")
    profile = shared_profile(registry, seed, pico.domain_documents("code", 20))
    for strength in (0.0, -1.0, 2.5, float("nan"), float("inf")):
        with pytest.raises(InvalidEmbeddingError, match="the strength is"):
            check_profile(dataclasses.replace(profile, strength=strength), seed)


@pytest.mark.parametrize("best", [0.4, 0.6, 0.9, 1.05])
def test_the_best_strength_is_the_minimum_of_a_parabola_found_in_three_calls(best):
    asked = []
    found = best_strength(lambda strength: asked.append(strength) or (strength - best) ** 2)
    assert found == best and len(asked) == 3


@pytest.mark.parametrize(("slope", "end"), [(1, 0.25), (-1, 1.25), (0, 1.0)])
def test_the_strength_of_a_loss_without_a_minimum_is_an_end_of_the_range(slope, end):
    assert best_strength(lambda strength: slope * strength) == end


def test_training_text_and_text_for_choices_never_meet():
    texts = [f"document {i}" for i in range(2000)]
    for_choices = [text for text in texts if documents.is_for_choices(text)]
    assert 60 < len(for_choices) < 140
    assert not any(documents.is_held_out(text) for text in for_choices)


def test_an_evaluation_records_where_tokens_went(registry):
    ref = compose(registry, recipe("measured")).mix.ref
    found = evaluate(registry, ref, max_bytes=3000, oracle=True)
    assert found["routing"]["code"]["code@1"] > 0.8
    assert len(found["routing_by_layer"]["code"]["code@1"]) == 1
    assert {"seed", "expert", "mix", "oracle"} <= found["bits_per_byte"]["code"].keys()


def test_a_routed_mix_generates_and_names_the_experts_of_each_token(registry):
    ref = compose(registry, recipe("speaks")).mix.ref
    prompt = text_of("math")[:200]
    result = generate(registry, ref, prompt, max_new_tokens=5, temperature=0)
    assert all(token.experts["math@1"] == 1 for token in result.tokens)
    only_code = generate(registry, ref, prompt, max_new_tokens=5, active_experts=["code"])
    assert not any(token.experts["math@1"] for token in only_code.tokens)


def test_an_expert_with_a_signature_alone_is_routed_as_one_with_text_is(registry):
    both = compose(registry, recipe("private", ("code", "signed")))
    digest = queries.get_expert(registry, "signed").profile
    assert digest in both.manifest.blobs() and queries.get_expert(registry, "signed").sample is None
    mix = open_mix(registry, both.manifest)
    for place, domain in enumerate(("code", "cooking")):
        assert shares(registry, mix, text_of(domain))[place] > 0.9
    open_text = compose(registry, recipe("open", ("code", "cooking"))).manifest
    tables = [map_tensors(registry.blobs.path(m.router)) for m in (both.manifest, open_text)]
    for name in ("context.unigrams", "context.bigrams"):
        torch.testing.assert_close(*(table[name].float() for table in tables), atol=1.0, rtol=0)
    extended = extend(registry, compose(registry, recipe("later")).mix.ref, "signed")
    assert extended.manifest.members[-1].strength == 1.0


def test_an_expert_without_text_is_refused_with_a_way_out(registry):
    with pytest.raises(MissingTextError, match=r"closed@1 shared none.*regmean"):
        compose(registry, recipe("blind", ("code", "closed")))
    whole = compose(registry, recipe("seeing"))
    with pytest.raises(MissingTextError, match="closed@1 shared none"):
        extend(registry, whole.mix.ref, "closed")


@pytest.mark.parametrize(
    "settings",
    [{"top_k": 2}, {"router": "linear"}, {"top_p": 0.5}, {"top_k": 2, "null_experts": 1}],
)
def test_routing_that_a_routed_trunk_does_not_do_is_refused(settings):
    with pytest.raises(RecipeError, match="one whole expert"):
        recipe("wrong", **settings)


def test_nothing_is_trained_unless_tokens_are_asked_for(registry):
    assert recipe("default").training.tokens == 0
    assert recipe("tuned", training={"tokens": 1000}).training.tokens == 1000
    ref = compose(registry, recipe("free")).mix.ref
    with pytest.raises(RecipeError, match="leave out train,"):
        extend(registry, ref, "cooking", training=Training(tokens=1000, train="ffn"))
    assert extend(registry, ref, "cooking").manifest.members[-1].difference is None


@pytest.mark.parametrize("format", ["qwen2_moe", "gguf"])
def test_stock_formats_are_refused_with_a_command_whose_mix_they_take(registry, tmp_path, format):
    ref = compose(registry, recipe("stock")).mix.ref
    with pytest.raises(ExportError, match="use --format nexus") as caught:
        export(registry, ref, tmp_path / "out", format=format)
    options = shlex.split(str(caught.value).rpartition("nexusmix compose NAME ")[2])
    asked = dict(zip(options[::2], options[1::2], strict=True))
    merged = Recipe.parse(
        {
            **with_preset({"preset": asked["--preset"], "training": {"tokens": 0}}),
            "name": f"stock-{format}",
            "seed": asked["--seed"],
            "experts": asked["--experts"].split(","),
        }
    )
    export(registry, compose(registry, merged).mix.ref, tmp_path / "out", format=format)


def test_a_manifest_without_a_routed_trunk_does_not_mention_one(registry):
    settings = {"trunk_merge": "mean", "training": {"tokens": 0, "warm_start": False}}
    result = compose(registry, recipe("merged", **settings))
    stored = registry.blobs.read_bytes(result.mix.manifest)
    assert b"routed" not in stored and b"strength" not in stored
    assert read_manifest(registry, result.mix.manifest) == find_mix(registry, result.mix.ref)[1]


def test_an_evaluation_compares_with_dume_of_the_same_experts_if_asked(registry):
    ref = compose(registry, recipe("rivalled")).mix.ref
    found = evaluate(registry, ref, max_bytes=3000, dume=True)
    for scores in found["bits_per_byte"].values():
        assert scores["dume"] not in (scores["mix"], scores["dense_merging"], scores["seed"])
    closed = compose(registry, recipe("closed-rival", ("code", "signed"))).mix.ref
    with pytest.raises(MissingTextError, match="signed@1 shared none: evaluate without --dume"):
        evaluate(registry, closed, max_bytes=3000, dume=True)
