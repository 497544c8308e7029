"""Trunk merges compared with their papers' formulas: on whole tensors, by hand, and streamed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from composer.errors import RecipeError
from composer.mix.recipe import Recipe
from composer.tensors import stream
from composer.tensors.stream import merge_trunks
from composer.tensors.torch_blobs import put_tensors
from composer.trunks import chosen_merge
from composer.variants import TRUNK_MERGES
from registry.blobs import LocalBlobStore

Tensors = list[torch.Tensor]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PIECE", 1000)


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs")


def trunk(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # The first is larger than a piece, so elementwise merges split it; the others must not.
    shapes = {"b.weight": (70, 180), "a.weight": (3, 5), "norm.weight": (7,)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def ties(seed: torch.Tensor, experts: Tensors, density: float, scale: float) -> torch.Tensor:
    """TIES by its definition: sort, keep the largest values and ties, elect signs, average the agreeing values."""
    tau = torch.stack([e - seed for e in experts]).flatten(1)
    kept = round(density * tau.shape[1])
    for row in tau:
        row[row.abs() < row.abs().sort().values[len(row) - kept]] = 0
    wins = (tau.sign() == tau.sum(dim=0).sign()) & (tau != 0)
    mean = (tau * wins).sum(dim=0) / wins.sum(dim=0).clamp(min=1)
    return seed + scale * mean.view_as(seed)


def pcb(seed: torch.Tensor, experts: Tensors, density: float, scale: float) -> torch.Tensor:
    """PCB-Merging by its equations, in float64 and with all pairs at once."""
    tau = torch.stack([(e - seed).double() for e in experts]).flatten(1)
    n, d = tau.shape

    def norm(x: torch.Tensor) -> torch.Tensor:
        low, high = x.min(-1, keepdim=True).values, x.max(-1, keepdim=True).values
        return (x - low) / (high - low)

    intra = torch.softmax(n * norm(tau * tau), dim=-1)
    inter = torch.softmax(norm(tau[:, None] * tau[None]), dim=-1).sum(dim=1)
    beta = intra * inter
    for row in beta:
        row[row.argsort()[: d - round(density * d)]] = 0
    weight = beta.sum(dim=0)
    merged = torch.where(weight > 0, (beta * tau).sum(dim=0) / weight, 0)
    return seed + (scale * merged).float().view_as(seed)


# Method → its parameters, and the formula on whole float32 tensors.
EXPECTED: dict[str, tuple[dict[str, object], Callable[[torch.Tensor, Tensors], torch.Tensor]]] = {
    "mean": ({}, lambda seed, experts: sum(experts) / len(experts)),
    "mean_with_seed": ({}, lambda seed, experts: (seed + sum(experts)) / (len(experts) + 1)),
    "regmean": ({}, lambda seed, experts: (seed + sum(experts)) / (len(experts) + 1)),
    "seed": ({}, lambda seed, experts: seed),
    "routed": ({}, lambda seed, experts: seed),
    "weighted": (
        {"weights": [3.0, 1.0, 0.5]},
        lambda seed, experts: (3 * experts[0] + experts[1] + 0.5 * experts[2]) / 4.5,
    ),
    "task_arithmetic": ({"scale": 0.3}, lambda seed, experts: seed + 0.3 * sum(e - seed for e in experts)),
    "ties": ({"density": 0.4, "scale": 0.7}, lambda seed, experts: ties(seed, experts, 0.4, 0.7)),
    "pcb": ({"density": 0.4, "scale": 0.7}, lambda seed, experts: pcb(seed, experts, 0.4, 0.7)),
}


@pytest.mark.parametrize("method", sorted(EXPECTED))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_streamed_merge_equals_the_formula_on_whole_tensors(
    blobs: LocalBlobStore, method: str, dtype: torch.dtype
) -> None:
    parameters, formula = EXPECTED[method]
    seed, *experts = (trunk(i, dtype) for i in range(4))
    digests = [put_tensors(blobs, tensors) for tensors in (seed, *experts)]
    merge = chosen_merge({"method": method, **parameters})
    merged = load_file(blobs.path(merge_trunks(blobs, merge, digests[0], digests[1:])))
    for name, tensor in seed.items():
        expected = formula(tensor.float(), [e[name].float() for e in experts]).to(dtype)
        assert merged[name].dtype == dtype
        # Merging is done in float32 for every stored dtype.
        tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float64 else {}
        torch.testing.assert_close(merged[name], expected, **tolerance)


@pytest.mark.parametrize("method", sorted(EXPECTED))
def test_trunks_that_are_all_the_seeds_merge_to_it_exactly_and_write_nothing(
    blobs: LocalBlobStore, method: str
) -> None:
    digest = put_tensors(blobs, trunk(0))
    before = list(blobs.iter_digests())
    merge = chosen_merge({"method": method, **EXPECTED[method][0]})
    assert merge_trunks(blobs, merge, digest, [digest] * 3) == digest
    assert list(blobs.iter_digests()) == before


@pytest.mark.parametrize("method", sorted(EXPECTED))
def test_experts_that_left_a_tensor_as_the_seed_has_it_leave_it_to_the_merge(method: str) -> None:
    seed = np.array([1.0, -2.0, 0.5], dtype=np.float32)
    merge = chosen_merge({"method": method, **EXPECTED[method][0]})
    np.testing.assert_allclose(merge(seed, [seed.copy() for _ in range(3)]), seed, rtol=1e-6)


def merged(choice: object, seed: list[float], *experts: list[float]) -> list[float]:
    arrays = [np.array(values, dtype=np.float32) for values in (seed, *experts)]
    return chosen_merge(choice)(arrays[0], iter(arrays[1:])).tolist()  # type: ignore[arg-type]


def test_the_mean_by_hand() -> None:
    assert merged("mean", [9.0, 9.0], [1.0, 2.0], [3.0, 6.0]) == [2.0, 4.0]


def test_the_mean_with_the_seed_by_hand() -> None:
    assert merged("mean_with_seed", [2.0, 1.0], [1.0, 2.0], [3.0, 6.0]) == [2.0, 3.0]


def test_the_weighted_mean_by_hand() -> None:
    choice = {"method": "weighted", "weights": [3, 1]}
    assert merged(choice, [9.0, 9.0], [1.0, 2.0], [3.0, 6.0]) == [1.5, 3.0]


def test_task_arithmetic_by_hand() -> None:
    # Task vectors (0, 1) and (2, 5): the seed plus half of (2, 6).
    choice = {"method": "task_arithmetic", "scale": 0.5}
    assert merged(choice, [1.0, 1.0], [1.0, 2.0], [3.0, 6.0]) == [2.0, 4.0]


def test_ties_by_hand() -> None:
    # Of the task vectors (4, -3, 0.5, 0) and (-1, 0.5, 0, 2) the larger halves remain: (4, -3, 0, 0), (-1, 0, 0, 2).
    # Their sum (3, -3, 0, 2) elects (+, -, 0, +): the first element is 4 alone, because -1 disagrees.
    choice = {"method": "ties", "density": 0.5}
    seed = [1.0, 1.0, 1.0, 1.0]
    assert merged(choice, seed, [5.0, -2.0, 1.5, 1.0], [0.0, 1.5, 1.0, 3.0]) == [5.0, -2.0, 1.0, 3.0]


def test_ties_averages_only_the_experts_that_agree() -> None:
    choice = {"method": "ties", "density": 1.0, "scale": 0.5}
    # Task vectors 4, 2 and -1: the sign is +, the mean of 4 and 2 is 3, and half of that is added.
    assert merged(choice, [1.0], [5.0], [3.0], [0.0]) == [2.5]


def test_pcb_by_hand() -> None:
    # Task vectors (2, 0) and (0, 1). Intra: softmax(2·(1, 0)) = (0.8808, 0.1192) and its mirror image.
    # Inter: softmax(1, 0) = (0.7311, 0.2689) with itself and (½, ½) with the other, whose product is 0.
    # β = (0.8808 · 1.2311, 0.1192 · 0.7689) = (1.0843, 0.0917): the owner's share is 0.9221 of each element.
    whole = {"method": "pcb", "density": 1.0}
    assert merged(whole, [0.0, 0.0], [2.0, 0.0], [0.0, 1.0]) == pytest.approx([1.8441, 0.9221], abs=1e-4)
    # The lower of each expert's two scores is dropped, so every element comes from its owner alone.
    half = {"method": "pcb", "density": 0.5, "scale": 0.5}
    assert merged(half, [1.0, 1.0], [3.0, 1.0], [1.0, 2.0]) == pytest.approx([2.0, 1.5])


@pytest.mark.parametrize("method", sorted(EXPECTED))
def test_a_merge_needs_no_more_memory_than_documented(
    blobs: LocalBlobStore, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, sizes = stream.read, []
    monkeypatch.setattr(
        stream, "read", lambda info, start, stop: (sizes.append(stop - start), read(info, start, stop))[1]
    )
    digests = [put_tensors(blobs, trunk(i)) for i in range(4)]
    merge = chosen_merge({"method": method, **EXPECTED[method][0]})
    merge_trunks(blobs, merge, digests[0], digests[1:])
    assert max(sizes) == (stream.PIECE if merge.elementwise else 70 * 180)


def test_every_trunk_merge_is_tested_and_listed_under_its_own_name() -> None:
    assert TRUNK_MERGES.keys() == EXPECTED.keys()
    assert all(chosen_merge({"method": m, **EXPECTED[m][0]}).method == m for m in TRUNK_MERGES)
    assert all(
        type(chosen_merge({"method": m, **EXPECTED[m][0]})) is TRUNK_MERGES[m].load() for m in TRUNK_MERGES
    )


def recipe(trunk_merge: object) -> Recipe:
    return Recipe.parse({"name": "x", "seed": "s", "experts": ["a", "b"], "trunk_merge": trunk_merge})


def test_a_recipe_takes_a_merge_by_its_name_or_with_parameters_and_fills_in_the_rest() -> None:
    assert recipe("mean").model_dump()["trunk_merge"] == {"method": "mean"}
    assert recipe("ties").trunk_merge == recipe({"method": "ties", "density": 0.2}).trunk_merge
    dumped = recipe({"method": "pcb", "density": 0.3}).model_dump()["trunk_merge"]
    assert dumped == {"method": "pcb", "density": 0.3, "scale": 1.0}


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("magic", "no trunk merge 'magic'; expected one of regmean, mean"),
        ("weighted", "trunk_merge: weighted.weights: Field required"),
        ({"method": "ties", "density": 0}, "trunk_merge: ties.density"),
        ({"method": "ties", "density": 1.5}, "trunk_merge: ties.density"),
        ({"method": "mean", "scale": 1}, "trunk_merge: mean.scale"),
        ({"method": "task_arithmetic", "scale": float("inf")}, "trunk_merge: task_arithmetic.scale"),
        ({"method": "weighted", "weights": [1, 1, 1]}, "3 weights for 2 experts"),
        ({"method": "weighted", "weights": [0, 0]}, "all weights are zero"),
        ({"method": "weighted", "weights": [1, -1]}, "trunk_merge: weighted.weights.1"),
    ],
)
def test_a_recipe_names_what_is_wrong_with_its_merge(choice: object, told: str) -> None:
    with pytest.raises(RecipeError) as error:
        recipe(choice)
    assert told in str(error.value)


def test_a_recipe_is_checked_without_torch() -> None:
    script = (
        "import sys; from composer.mix.recipe import Recipe; "
        "Recipe.parse({'name': 'x', 'seed': 's', 'experts': ['a'], 'trunk_merge': 'pcb'}); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
