"""The models that a mix is compared with, and the keys of their cached figures."""

from __future__ import annotations

import json

import pytest

from composer.evaluation.contenders import (
    TITLES,
    dense_merging,
    expert_contender,
    score_rows,
    seed_contender,
)
from composer.mix.lock import LockedExpert, LockedSeed
from registry.home import Registry

FILLER = "sha256:" + "0" * 64


@pytest.fixture
def seed(registry: Registry) -> LockedSeed:
    config = registry.blobs.put_bytes(json.dumps({"intermediate_size": 16}).encode())
    return LockedSeed(
        name="base",
        license="MIT",
        dtype="F32",
        ffn=FILLER,
        trunk=FILLER,
        files={"config.json": config},
        sample=None,
    )


def _expert(name: str, trunk: str, width: int = 16) -> LockedExpert:
    return LockedExpert(
        ref=f"{name}@1",
        license="MIT",
        dtype="F32",
        ffn_width=width,
        ffn=FILLER,
        trunk=trunk,
        embedding=FILLER,
        sample=None,
        chunk_vectors=None,
    )


def test_dense_merging_of_experts_that_differ_in_their_trunks_alone_is_another_model(
    registry: Registry, seed: LockedSeed
) -> None:
    code, law, math = (_expert(name, f"sha256:{name:0>64}") for name in ("code", "law", "math"))
    weights = [dense_merging(registry, seed, experts) for experts in ([code, law], [code, math], [law, code])]
    first, other, same = (merged.weights for merged in weights if merged is not None)
    assert first == same != other


def test_dense_merging_is_left_out_where_widths_differ(registry: Registry, seed: LockedSeed) -> None:
    assert dense_merging(registry, seed, [_expert("code", FILLER), _expert("wide", FILLER, 32)]) is None


def test_every_contender_has_its_title(registry: Registry, seed: LockedSeed) -> None:
    code = _expert("code", FILLER)
    merged = dense_merging(registry, seed, [code])
    contenders = [seed_contender(registry, seed), expert_contender(registry, seed, code), merged]
    assert [TITLES[each.column] for each in contenders if each is not None] == [
        "seed",
        "own expert",
        "dense merging",
    ]


def test_a_table_has_a_row_per_domain_then_changing_text_then_the_mean() -> None:
    scores = {"code": {"mix": 2.0, "seed": 3.0}, "law": {"mix": 4.0, "seed": 5.0, "other@1": 4.5}}
    evaluation = {"bits_per_byte": scores, "mean": {"seed": 4.0, "mix": 3.0}}
    columns, rows = score_rows(evaluation)
    assert columns == ["seed", "mix", "other@1"]
    assert list(rows.items()) == [
        ("code", [3.0, 2.0, None]),
        ("law", [5.0, 4.0, 4.5]),
        ("mean", [4.0, 3.0, None]),
    ]
    _, rows = score_rows({**evaluation, "changing": {"bits_per_byte": {"seed": 6.0}}})
    assert list(rows) == ["code", "law", "changing domain", "mean"]
    assert rows["changing domain"] == [6.0, None, None]
