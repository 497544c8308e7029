"""Measurement of an expert alone on its own and other domains."""

import pico
import pytest

from composer.errors import MissingTextError
from composer.evaluation.expert_measurement import GENERAL, measure_transfer
from registry.catalog import queries
from registry.domains.embedders import load_embedder
from registry.domains.embedding import embed_domain, save_embedding
from registry.home import open_registry
from registry.intake.intake import add_seed, contribute


@pytest.fixture
def registry(tmp_path):
    """A seed with text; `code` and `math` with text, `secret` with its embedding only."""
    opened = open_registry(tmp_path / "home", embedder="hashing:16")
    seed = pico.write_pico(tmp_path / "seed")
    general = pico.write_documents(tmp_path / "general.jsonl", "cooking")
    add_seed(opened, "pico", seed, license="MIT", data=[general])
    for number, name in enumerate(("code", "math"), 1):
        folder = pico.branch_pico(seed, tmp_path / name, seed=number)
        data = [pico.write_documents(tmp_path / f"{name}.jsonl", name)]
        contribute(opened, name, folder, seed="pico", license="MIT", data=data)
    embedding, _ = embed_domain(load_embedder("hashing:16"), pico.domain_documents("law"))
    save_embedding(tmp_path / "law.json", embedding)
    contribute(
        opened,
        "secret",
        seed,
        seed="pico",
        license="MIT",
        embedding=tmp_path / "law.json",
        allow_unchanged=True,
    )
    yield opened
    opened.engine.dispose()


def test_an_expert_is_measured_on_its_own_its_seeds_and_other_domains(registry):
    result = measure_transfer(registry, "code")
    assert result["expert"] == "code@1"
    assert set(result["bits_per_byte"]) == {"code@1", GENERAL, "math@1"}
    assert all(score > 0 for row in result["bits_per_byte"].values() for score in row.values())
    assert queries.get_measurement(registry, "code@1") == result
    assert queries.get_measurement(registry, "math") is None
    assert [e.ref for e in queries.list_experts(registry, measured=True)] == ["code@1"]


def test_a_private_expert_that_is_its_seed_scores_as_its_seed_on_others_text(registry):
    result = measure_transfer(registry, "secret", domains=1)
    assert len(result["bits_per_byte"]) == 2
    assert all(row["seed"] == row["expert"] for row in result["bits_per_byte"].values())


def test_without_any_held_out_text_there_is_nothing_to_measure_on(registry, tmp_path):
    add_seed(registry, "bare", tmp_path / "seed", license="MIT")
    contribute(
        registry,
        "mute",
        tmp_path / "seed",
        seed="bare",
        license="MIT",
        embedding=tmp_path / "law.json",
        allow_unchanged=True,
    )
    with pytest.raises(MissingTextError, match="mute@1"):
        measure_transfer(registry, "mute")
