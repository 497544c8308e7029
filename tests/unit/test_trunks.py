"""Trunk merges and their streaming."""

import pytest
import torch

from composer.trunks import TRUNK_MERGES
from composer.weights import merge_trunks, put_tensors
from registry.blobs import LocalBlobStore
from safetensors.torch import load_file


@pytest.fixture
def blobs(tmp_path):
    return LocalBlobStore(tmp_path / "blobs")


def trunk(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"b.weight": (700, 1800), "a.weight": (3, 5), "norm.weight": (7,)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


EXPECTED = {
    "mean": lambda seed, experts: sum(experts) / len(experts),
    "mean_with_seed": lambda seed, experts: (seed + sum(experts)) / (len(experts) + 1),
    "seed": lambda seed, experts: seed,
}


@pytest.mark.parametrize("method", sorted(EXPECTED))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_streamed_merge_equals_the_formula_on_whole_tensors(blobs, method, dtype):
    seed, *experts = (trunk(i, dtype) for i in range(4))
    digests = [put_tensors(blobs, tensors) for tensors in (seed, *experts)]
    merged = load_file(blobs.path(merge_trunks(blobs, TRUNK_MERGES[method](), digests[0], digests[1:])))
    for name, tensor in seed.items():
        expected = EXPECTED[method](tensor.float(), [e[name].float() for e in experts]).to(dtype)
        assert merged[name].dtype == dtype
        torch.testing.assert_close(merged[name], expected)


@pytest.mark.parametrize("method", sorted(EXPECTED))
def test_trunks_that_are_all_the_seeds_merge_to_it_exactly_and_write_nothing(blobs, method):
    digest = put_tensors(blobs, trunk(0))
    before = list(blobs.iter_digests())
    assert merge_trunks(blobs, TRUNK_MERGES[method](), digest, [digest] * 3) == digest
    assert list(blobs.iter_digests()) == before


def test_every_trunk_merge_is_tested():
    assert TRUNK_MERGES.keys() == EXPECTED.keys()
