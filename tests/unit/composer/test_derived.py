"""The cache of arrays that follow from stored content."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from composer.derived import derived, derived_number
from composer.model import routed
from composer.routed_trunk import profiles
from registry.errors import StorageError
from registry.home import Registry


def test_arrays_are_computed_once_per_key_and_again_if_their_file_is_damaged(registry: Registry) -> None:
    calls = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"row": np.array([1.5, len(calls)])}

    first = derived(registry, "rows", ["a", "b"], compute)
    assert np.array_equal(derived(registry, "rows", ["a", "b"], compute)["row"], first["row"])
    assert len(calls) == 1
    derived(registry, "rows", ["a b"], compute)
    assert len(calls) == 2
    for path in (registry.home / "cache" / "rows").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    derived(registry, "rows", ["a", "b"], compute)
    assert len(calls) == 3


def test_a_number_is_stored_and_a_disk_that_takes_nothing_is_reported(registry: Registry) -> None:
    assert derived_number(registry, "scores", ["a"], lambda: 2.5) == 2.5
    assert derived_number(registry, "scores", ["a"], lambda: 0.0) == 2.5
    (registry.home / "cache" / "full").write_text("in place of a folder")
    with pytest.raises(StorageError, match=r"cannot write .*full"):
        derived_number(registry, "full", ["a"], lambda: 1.0)


def test_a_profile_counts_pairs_in_the_rows_that_the_router_reads() -> None:
    ids = [5, 250_000, 7, 5]
    counted = profiles.profile(lambda _: ids, ["text"], 262_144)
    rows = routed.bucket(torch.tensor(ids[:-1]), torch.tensor(ids[1:]))
    often = set(np.flatnonzero(counted.bigrams > counted.bigrams.min()).tolist())
    assert often == set(rows.tolist())
    assert set(np.flatnonzero(counted.unigrams > counted.unigrams.min()).tolist()) == set(ids)
    assert counted.unigrams.dtype == np.float16
