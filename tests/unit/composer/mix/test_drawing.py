"""Fresh routers initialised without torch: their values, their spread, and the gates that they collapse to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from composer.mix.domains import Standard, nearly_equal
from composer.mix.initial_routers import initial_parameters, put_fresh_routers
from composer.model.routers import router_class
from composer.tensors.torch_blobs import map_tensors
from composer.variants import ROUTERS, load
from registry.blobs import LocalBlobStore

HIDDEN, WIDTH, COUNT, LAYERS = 48, 16, 3, 12


def means(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((COUNT, WIDTH), dtype=np.float32)


def fresh(blobs: LocalBlobStore, kind: str, random_seed: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of a stored fresh router."""
    digest = put_fresh_routers(
        blobs,
        kind,
        means(),
        Standard.of(means()),
        layers=LAYERS,
        hidden_size=HIDDEN,
        random_seed=random_seed,
    )
    return map_tensors(blobs.path(digest))


def of_layer(tensors: dict[str, torch.Tensor], layer: int) -> dict[str, torch.Tensor]:
    prefix = f"layers.{layer}."
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs")


@pytest.mark.parametrize("kind", sorted(ROUTERS))
def test_a_fresh_router_has_the_values_that_its_kind_says(blobs: LocalBlobStore, kind: str) -> None:
    tensors = fresh(blobs, kind)
    for name, first in initial_parameters(kind, HIDDEN, WIDTH, COUNT).items():
        layers = [of_layer(tensors, layer)[name] for layer in range(LAYERS)]
        shapes = [
            initial_parameters(kind, HIDDEN, WIDTH, COUNT, layer)[name].shape for layer in range(LAYERS)
        ]
        assert [tuple(drawn.shape) for drawn in layers] == shapes
        drawn = torch.cat([drawn.flatten() for drawn in layers])
        torch.testing.assert_close(drawn.std().item(), first.std, rtol=0.1, atol=1e-6)
        assert abs(drawn.mean().item() - first.mean) < 0.1 * first.std + 1e-6


@pytest.mark.parametrize("kind", sorted(ROUTERS))
def test_torchs_router_opens_what_was_drawn_and_draws_by_the_same_table(
    blobs: LocalBlobStore, kind: str
) -> None:
    router = router_class(kind)(HIDDEN, WIDTH, COUNT, block=3)
    router.load_state_dict(of_layer(fresh(blobs, kind), 3))
    torch.testing.assert_close(router.domains, torch.from_numpy(Standard.of(means())(means())))
    router.reset_parameters(torch.Generator().manual_seed(0))
    for name, first in initial_parameters(kind, HIDDEN, WIDTH, COUNT, 3).items():
        torch.testing.assert_close(router.state_dict()[name].std().item(), first.std, rtol=0.3, atol=1e-6)


@pytest.mark.parametrize("kind", [name for name, row in ROUTERS.items() if row.gate])
def test_a_gate_without_torch_is_the_routers_own(blobs: LocalBlobStore, kind: str) -> None:
    parameters = of_layer(fresh(blobs, kind), 1)
    router = router_class(kind)(HIDDEN, WIDTH, COUNT, block=1)
    router.load_state_dict(parameters)
    gate = load(ROUTERS[kind].gate)({name: tensor.numpy() for name, tensor in parameters.items()})
    torch.testing.assert_close(torch.from_numpy(gate), router.gate().detach(), atol=1e-6, rtol=1e-5)


def test_every_layer_and_every_random_seed_has_its_own_numbers(blobs: LocalBlobStore) -> None:
    one, again, other = (fresh(blobs, "nexus", seed) for seed in (1, 1, 2))
    drawn = [name for name in one if name.endswith((".w1", ".w2"))]
    assert all(torch.equal(one[name], again[name]) for name in drawn)
    firsts = [tensors[name].flatten()[0].item() for tensors in (one, other) for name in drawn]
    assert len(set(firsts)) == len(firsts)


def test_domains_are_standardised_alike_by_numpy_and_by_torch() -> None:
    vectors = 5 + means(1)
    plain, learning = Standard.of(vectors), Standard.of(torch.from_numpy(vectors))
    standardised = plain(vectors)
    assert standardised.dtype == np.float32
    np.testing.assert_allclose((standardised**2).sum(axis=1), WIDTH, rtol=1e-5)
    np.testing.assert_allclose(
        standardised, learning(torch.from_numpy(vectors)).numpy(), rtol=1e-5, atol=1e-6
    )
    assert np.all(plain(plain.center) == 0)


def test_domains_between_which_no_router_can_choose_are_named() -> None:
    experts: list[Any] = [SimpleNamespace(ref=ref) for ref in ("a@1", "b@1", "c@1")]
    vectors = np.array([[1, 0, 0], [2, 0.1, 0], [0, 1, 0]], np.float32)
    (warning,) = nearly_equal(experts, vectors)
    assert "a@1 and b@1" in warning
    assert "0.999" in warning
