"""Proposals of experts from samples: relevance, diversity and near-duplicates."""

import numpy as np
import pytest
from publishing import add_expert, add_seed

from composer.proposals import propose
from registry.errors import InvalidInputError
from registry.home import Registry
from registry.records import DomainEmbedding, EmbedderId

EMBEDDER = EmbedderId("hashing", "1", 16, "sum")
AXES = np.eye(16, dtype=np.float32)


def publish(registry: Registry, name: str, *vectors: np.ndarray, seed: str = "base") -> None:
    centroids = np.stack([vector / np.linalg.norm(vector) for vector in vectors])
    weights = np.full(len(vectors), 1 / len(vectors), dtype=np.float32)
    card = np.stack([centroids[0], centroids[0]])
    embedding = DomainEmbedding(EMBEDDER, weights @ centroids, centroids, weights, 9, "0" * 64, card=card)
    add_expert(registry, name, seed=seed, embedding=embedding)


@pytest.fixture
def experts(registry: Registry) -> None:
    add_seed(registry)
    publish(registry, "code", AXES[0])
    publish(registry, "code-copy", AXES[0] + 0.05 * AXES[9])
    publish(registry, "law", AXES[1])
    publish(registry, "math", AXES[2])


@pytest.mark.usefixtures("experts")
def test_each_sample_gets_its_expert_and_a_near_duplicate_is_named_not_proposed(registry: Registry) -> None:
    samples = [AXES[0] + 0.1 * AXES[1], AXES[0], AXES[2]]
    first, second = propose(registry, samples, seed="base", limit=4, least=0.5)
    assert (first.expert.ref, first.samples, first.duplicates) == ("code@1", (0, 1), ("code-copy@1",))
    assert first.reason == "Nearest to sample 1, 2; nearly the same domain: code-copy@1"
    assert (second.expert.ref, second.samples, second.duplicates) == ("math@1", (2,), ())
    assert second.reason == "Nearest to sample 3"


@pytest.mark.usefixtures("experts")
def test_places_that_are_left_go_to_related_experts_that_differ(registry: Registry) -> None:
    proposals = propose(registry, [AXES[0] + 0.6 * AXES[1]], seed="base", limit=2, least=0.3)
    assert [proposal.expert.ref for proposal in proposals] == ["code@1", "law@1"]
    assert [proposal.samples for proposal in proposals] == [(0,), ()]
    assert "different" in proposals[1].reason


@pytest.mark.usefixtures("experts")
def test_nothing_is_proposed_for_samples_that_no_expert_of_the_seed_fits(registry: Registry) -> None:
    assert propose(registry, [AXES[7]], seed="base", limit=3, least=0.2) == []
    add_seed(registry, "other")
    assert propose(registry, [AXES[0]], seed="other", limit=3, least=0.2) == []


def test_proposing_without_samples_is_refused(registry: Registry) -> None:
    with pytest.raises(InvalidInputError, match="0 samples"):
        propose(registry, [], seed="base", limit=3, least=0.2)
