"""Intake of seeds and experts: stored blobs, shared blobs, and failures that publish nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest

from registry.catalog import queries
from registry.checkpoints.tensors import read_header
from registry.domains.documents import load_documents
from registry.domains.embedding import embed_domain, load_embedder, save_embedding
from registry.errors import (
    ConflictError,
    IncompatibleError,
    InvalidEmbeddingError,
    InvalidInputError,
    LicenseError,
    NotFoundError,
    StorageError,
    UnsafeFileError,
)
from registry.home import Registry
from registry.intake import intake
from registry.records import DomainEmbedding, SeedRecord

Contribute = Callable[..., Any]


@pytest.fixture
def seed(registry: Registry, pico_seed: Path) -> SeedRecord:
    return intake.add_seed(registry, "base", pico_seed, license="Apache-2.0", description="a pico Llama")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return pico.write_documents(tmp_path / "code.jsonl", "code")


@pytest.fixture
def contribute(registry: Registry, seed: SeedRecord, pico_expert: Path, data: Path) -> Contribute:
    """Contribute the pico expert as `python`; any argument can be replaced."""

    def contribute(name: str = "python", source: Path = pico_expert, **arguments: Any) -> Any:
        given: dict[str, Any] = {"seed": "base", "license": "MIT", "data": [data], **arguments}
        return intake.contribute(registry, name, source, **given)

    return contribute


@pytest.fixture
def embedding() -> DomainEmbedding:
    return embed_domain(load_embedder("hashing:16"), pico.domain_documents("law"))[0]


def blob_count(registry: Registry) -> int:
    return sum(1 for _ in registry.blobs.iter_digests())


def test_a_seed_is_stored_as_two_roles_and_its_small_files(
    registry: Registry, seed: SeedRecord, pico_seed: Path
) -> None:
    assert (seed.model_type, seed.dtype, seed.parameters, seed.license) == (
        "llama",
        "F32",
        32608,
        "Apache-2.0",
    )
    assert seed == queries.get_seed(registry, "base")
    assert seed.config == json.loads((pico_seed / "config.json").read_text())
    assert seed.files.keys() == {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for name, digest in seed.files.items():
        assert registry.blobs.read_bytes(digest) == (pico_seed / name).read_bytes()
    ffn, trunk = read_header(registry.blobs.path(seed.ffn)), read_header(registry.blobs.path(seed.trunk))
    assert len(ffn) == 6 and len(trunk) == 15 and all(".mlp." in name for name in ffn)
    assert seed.sample is None


def test_the_roles_together_are_the_tensors_of_the_folder(
    registry: Registry, seed: SeedRecord, pico_seed: Path
) -> None:
    from safetensors.numpy import load_file

    stored = load_file(registry.blobs.path(seed.ffn)) | load_file(registry.blobs.path(seed.trunk))
    original = load_file(pico_seed / "model.safetensors")
    assert stored.keys() == original.keys()
    assert all(np.array_equal(stored[name], original[name]) for name in original)


def test_a_contributed_expert_is_published_with_its_domain(
    registry: Registry, contribute: Contribute
) -> None:
    expert = contribute(description="tuned on code", provenance={"tokens": 1000})
    assert expert == dataclasses.replace(queries.get_expert(registry, "python@1"), embedding=expert.embedding)
    assert (expert.ref, expert.seed, expert.anchored, expert.ffn_width) == ("python@1", "base", False, 48)
    differences = expert.provenance.pop("difference_from_seed")
    assert expert.provenance == {"tokens": 1000}
    assert differences["ffn"]["changed"] == 1 and 0.5 < differences["ffn"]["cosine"] < 0.9
    documents = pico.domain_documents("code")
    sample, held_out = (load_documents(registry.blobs, d) for d in (expert.sample, expert.held_out))
    assert set(sample) | set(held_out) == set(documents) and not set(sample) & set(held_out)
    vectors = read_header(registry.blobs.path(expert.chunk_vectors))["vectors"]
    assert (vectors.dtype, vectors.shape) == ("F32", (expert.embedding.chunk_count, 16))


def test_a_second_contribution_is_the_next_version(contribute: Contribute, pico_anchored: Path) -> None:
    assert [contribute().ref, contribute(source=pico_anchored).ref] == ["python@1", "python@2"]


def test_an_expert_with_the_seeds_trunk_is_anchored_and_stores_no_second_trunk(
    registry: Registry, contribute: Contribute, seed: SeedRecord, pico_anchored: Path
) -> None:
    expert = contribute(source=pico_anchored)
    assert expert.anchored and expert.trunk == seed.trunk and expert.ffn != seed.ffn


def test_the_same_weights_in_shards_give_the_same_blobs(
    registry: Registry, seed: SeedRecord, tmp_path: Path
) -> None:
    sharded = pico.write_pico(tmp_path / "sharded", shards=3)
    again = intake.add_seed(registry, "again", sharded, license="MIT")
    assert (again.ffn, again.trunk) == (seed.ffn, seed.trunk)


def test_a_compiled_models_folder_gives_the_same_blobs_and_says_what_was_removed(
    contribute: Contribute, pico_expert: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(pico_expert, tmp_path / "compiled")
    weights = load_file(pico_expert / "model.safetensors")
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in weights.items()}
    save_file(compiled, tmp_path / "compiled" / "model.safetensors", metadata={"format": "pt"})
    plain, expert = contribute(), contribute("compiled", tmp_path / "compiled")
    assert (expert.ffn, expert.trunk) == (plain.ffn, plain.trunk)
    assert expert.provenance["wrappers_removed"] == ["_orig_mod."]
    assert "wrappers_removed" not in plain.provenance


def test_an_expert_keeps_its_own_dtype_and_ffn_width(contribute: Contribute, tmp_path: Path) -> None:
    source = pico.write_pico(tmp_path / "wide", seed=5, dtype="bfloat16", intermediate_size=80)
    expert = contribute("wide", source, allow_unrelated=True)
    assert (expert.dtype, expert.ffn_width, expert.anchored) == ("BF16", 80, False)


def test_private_data_is_represented_by_its_embedding_alone(
    registry: Registry, contribute: Contribute, embedding: DomainEmbedding, tmp_path: Path
) -> None:
    path = tmp_path / "domain.json"
    save_embedding(path, embedding)
    expert = contribute(data=[], embedding=path)
    assert (expert.sample, expert.held_out, expert.chunk_vectors) == (None, None, None)
    assert np.allclose(expert.embedding.mean, embedding.mean)


def test_explicit_held_out_text_is_kept_out_of_the_sample(
    registry: Registry, contribute: Contribute, data: Path, tmp_path: Path
) -> None:
    tests = pico.write_documents(tmp_path / "tests.jsonl", "code", 10)  # the first ten of `data`
    expert = contribute(data=[data], held_out=[tests])
    held_out = load_documents(registry.blobs, expert.held_out)
    assert set(held_out) == set(pico.domain_documents("code", 10))
    assert not set(held_out) & set(load_documents(registry.blobs, expert.sample))


def test_a_seeds_own_text_is_kept_with_it(registry: Registry, pico_seed: Path, data: Path) -> None:
    seed = intake.add_seed(registry, "base", pico_seed, license="MIT", data=[data])
    assert seed.sample and seed.held_out and seed.chunk_vectors


def test_progress_is_reported_for_every_stage(contribute: Contribute) -> None:
    steps: list[tuple[str, int, int]] = []
    contribute(progress=lambda *step: steps.append(step))
    last = {stage: (done, total) for stage, done, total in steps}
    assert last.keys() == {"ffn", "trunk", "embedding"}
    assert all(done == total > 0 for done, total in last.values())


@pytest.mark.parametrize(
    ("arguments", "error", "pattern"),
    [
        ({"license": "apache 2"}, LicenseError, "did you mean Apache-2.0"),
        ({"license": ""}, LicenseError, "a licence is required"),
        ({"seed": "nobody"}, NotFoundError, "no seed 'nobody'"),
        ({"name": "a/b"}, InvalidInputError, "a/b"),
        ({"name": "latest"}, InvalidInputError, "reserved"),
        ({"source": Path("/nowhere/at/all")}, NotFoundError, "no such folder"),
        ({"data": []}, InvalidInputError, "either data or an embedding file"),
        ({"data": [Path("/nowhere.jsonl")]}, NotFoundError, "nowhere"),
        ({"data": [], "embedding": Path("/nowhere.json")}, NotFoundError, "nowhere"),
        ({"embedding": Path("x.json")}, InvalidInputError, "either data or an embedding file"),
        (
            {"data": [], "embedding": Path("x.json"), "held_out": [Path("y")]},
            InvalidInputError,
            "held-out text needs data",
        ),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_stored(
    registry: Registry,
    contribute: Contribute,
    arguments: dict[str, Any],
    error: type[Exception],
    pattern: str,
) -> None:
    before = blob_count(registry)
    with pytest.raises(error, match=pattern):
        contribute(**arguments)
    assert blob_count(registry) == before and queries.list_experts(registry) == []


def test_an_incompatible_expert_is_refused_before_anything_is_stored(
    registry: Registry, contribute: Contribute, pico_expert: Path, tmp_path: Path
) -> None:
    other = pico.edit_config(
        Path(shutil.copytree(pico_expert, tmp_path / "x")), rms_norm_eps=0.5, hidden_act="gelu"
    )
    before = blob_count(registry)
    with pytest.raises(IncompatibleError) as caught:
        contribute(source=other)
    assert len(caught.value.mismatches) == 2
    assert blob_count(registry) == before and queries.list_experts(registry) == []


@pytest.mark.parametrize("role", ["mlp.up_proj", "self_attn.q_proj"])
def test_nan_weights_are_refused_and_nothing_is_published(
    registry: Registry, contribute: Contribute, pico_expert: Path, tmp_path: Path, role: str
) -> None:
    from safetensors.numpy import load_file, save_file

    bad = Path(shutil.copytree(pico_expert, tmp_path / "bad"))
    tensors = load_file(bad / "model.safetensors")
    tensors[f"model.layers.1.{role}.weight"][3, 3] = np.nan
    save_file(tensors, bad / "model.safetensors")
    with pytest.raises(UnsafeFileError, match=f"{role}.weight' contains NaN or infinity"):
        contribute(source=bad)
    assert queries.list_experts(registry) == []
    assert not list((registry.home / "blobs" / "tmp").glob("*"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda e: dataclasses.replace(e, mean=e.mean[:8]),
        lambda e: dataclasses.replace(e, mean=e.mean * np.float32("nan")),
        lambda e: dataclasses.replace(e, mean=e.mean * 0),
        lambda e: dataclasses.replace(e, embedder=dataclasses.replace(e.embedder, name="other")),
        lambda e: dataclasses.replace(e, embedder=dataclasses.replace(e.embedder, dimension=384)),
    ],
)
def test_an_embedding_that_cannot_be_compared_is_refused_before_anything_is_stored(
    registry: Registry,
    contribute: Contribute,
    embedding: DomainEmbedding,
    tmp_path: Path,
    damage: Callable[[DomainEmbedding], DomainEmbedding],
) -> None:
    path = tmp_path / "domain.json"
    save_embedding(path, damage(embedding))
    before = blob_count(registry)
    with pytest.raises(InvalidEmbeddingError):
        contribute(data=[], embedding=path)
    assert blob_count(registry) == before and queries.list_experts(registry) == []


def test_a_taken_seed_name_is_a_conflict_in_any_spelling(
    registry: Registry, seed: SeedRecord, pico_seed: Path
) -> None:
    with pytest.raises(ConflictError, match="'base' already exists"):
        intake.add_seed(registry, "BASE", pico_seed, license="MIT")


def test_an_expert_name_that_differs_only_by_case_is_a_conflict(contribute: Contribute) -> None:
    contribute("python")
    with pytest.raises(ConflictError, match="write 'python' for its next version"):
        contribute("Python")


def test_a_full_disk_is_found_before_the_copy(
    registry: Registry, contribute: Contribute, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shutil import _ntuple_diskusage

    # Enough space for the ffn blob (37 kB), but not for ffn and trunk (130 kB): the check counts both.
    monkeypatch.setattr("registry.blobs.shutil.disk_usage", lambda _: _ntuple_diskusage(10**9, 10**9, 60_000))
    steps: list[str] = []
    with pytest.raises(StorageError, match="free"):
        contribute(progress=lambda stage, done, total: steps.append(stage))
    assert steps == [] and queries.list_experts(registry) == []
