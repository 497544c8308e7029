"""The bill of materials of a mix, checked against the CycloneDX schema by the library itself."""

import json

import pico
import pytest

from composer import extras
from composer.bill_of_materials import bill_of_materials
from composer.composition import compose
from composer.errors import MissingExtraError
from composer.evaluation.evaluate import evaluate
from composer.mix.opening import find_mix
from composer.mix.recipe import Recipe, Training
from registry.domains.embedding import embed_domain, load_embedder, save_embedding
from registry.home import open_registry
from registry.intake.intake import add_seed, contribute


@pytest.fixture(scope="module")
def registry(tmp_path_factory, pico_seed, pico_expert, pico_anchored):
    """A registry with a mix of an expert with text, and one that came from the Hub and shared only an embedding."""
    root = tmp_path_factory.mktemp("bom")
    registry = open_registry(root / "home", embedder="hashing:16")
    add_seed(registry, "pico", pico_seed, license="Apache-2.0", description="A <b>seed</b> \u202e")
    code = pico.write_documents(root / "code.jsonl", "code")
    contribute(registry, "code", pico_expert, seed="pico", license="MIT", data=[code])
    documents = pico.domain_documents("law")
    save_embedding(root / "law.json", embed_domain(load_embedder(registry.embedder), documents)[0])
    contribute(
        registry,
        "law",
        pico_anchored,
        seed="pico",
        license="LicenseRef-Court",
        embedding=root / "law.json",
        provenance={"source": f"hf:court/law-model@{'a' * 40}"},
    )
    training = Training(warm_start=False, tokens=0)
    recipe = Recipe(
        name="team",
        seed="pico",
        experts=["code", "law"],
        training=training,
        trunk_merge="mean",
        license_override="The court agreed.",
    )
    compose(registry, recipe)
    return registry


def _document(registry):
    return json.loads(bill_of_materials(registry, "team"))


def test_the_document_is_valid_by_the_strict_schema_before_and_after_an_evaluation(registry):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(bill_of_materials(registry, "team")) is None
    evaluate(registry, "team", max_bytes=2000)
    text = bill_of_materials(registry, "team")
    assert validator.validate_str(text) is None
    names = [each["name"] for each in json.loads(text)["metadata"]["component"]["properties"]]
    assert "nexusmix:bits_per_byte:code:mix" in names


def test_it_names_every_model_with_its_licence_and_the_digests_of_its_files(registry):
    document = _document(registry)
    record, manifest = find_mix(registry, "team")
    models = {part["bom-ref"]: part for part in document["components"] if part["type"] != "data"}
    assert models.keys() == {"pico", "code@1", "law@1"}
    assert {part["type"] for part in models.values()} == {"machine-learning-model"}
    assert models["code@1"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert "LicenseRef-Court" in str(models["law@1"]["licenses"])

    def digests(part):
        return {f"sha256:{file['hashes'][0]['content']}" for file in part["components"]}

    for member in manifest.members:
        assert digests(models[member.expert.ref]) == {member.expert.ffn, member.expert.trunk}
    assert digests(models["pico"]) >= {manifest.seed.ffn, *manifest.seed.files.values()}
    mix = document["metadata"]["component"]
    assert (mix["name"], mix["version"]) == ("team", "1")
    assert {record.manifest, manifest.router, manifest.trunk} == digests(mix)


def test_it_names_the_texts_and_says_which_the_registry_does_not_have(registry):
    texts = {part["bom-ref"]: part for part in _document(registry)["components"] if part["type"] == "data"}
    assert texts.keys() >= {"text of code@1", "text of law@1"}
    shared = {name: part["properties"][0]["value"] for name, part in texts.items()}
    assert (shared["text of code@1"], shared["text of law@1"]) == ("true", "false")


def test_an_expert_of_the_hub_has_the_address_of_its_commit(registry):
    (law,) = [part for part in _document(registry)["components"] if part["bom-ref"] == "law@1"]
    assert law["purl"] == f"pkg:huggingface/court/law-model@{'a' * 40}"


def test_the_mix_depends_on_its_experts_and_they_on_the_seed_and_their_text(registry):
    needs = {each["ref"]: set(each.get("dependsOn", [])) for each in _document(registry)["dependencies"]}
    assert needs["team@1"] == {"pico", "code@1", "law@1"}
    assert needs["code@1"] == {"pico", "text of code@1"}


def test_equal_mixes_give_equal_documents(registry):
    assert bill_of_materials(registry, "team") == bill_of_materials(registry, "team@1")


def test_without_the_package_the_error_names_the_extra(registry, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"nexusmix\[bom\]"):
        bill_of_materials(registry, "team")
