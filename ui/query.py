"""Query vectors for the catalog search, computed from a pasted sample or from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from registry.home import Registry
    from registry.records import DomainEmbedding

# Least scores of a strong match, and of some match. A request shares the words of PHRASE with every name.
# Measured on the 83 requests of test_search_quality.py and 10 that none fits (bench/RESULTS.md, Registry).
STRONG_REQUEST, CLOSE_REQUEST = 0.40, 0.33
STRONG_SAMPLE, CLOSE = 0.25, 0.14


def closeness(score: float, *, request: bool) -> str:
    """Return "strong", "some" or "none" for the score of a request in words, or else of a sample of text."""
    strong, close = (STRONG_REQUEST, CLOSE_REQUEST) if request else (STRONG_SAMPLE, CLOSE)
    return "strong" if score >= strong else "some" if score >= close else "none"


def vector_of_files(registry: Registry, paths: Sequence[Path]) -> np.ndarray:
    """Return the mean vector [m] of the text in files and folders, or of a file written by `nexusmix embed`."""
    from registry.domains.embedding import (
        embed_domain,
        load_embedder,
        load_embedding,
        validate_embedding,
    )
    from registry.domains.reading import read_documents

    embedder = load_embedder(registry.embedder)
    if len(paths) == 1 and paths[0].suffix == ".json":
        embedding = load_embedding(paths[0])
        validate_embedding(embedding, embedder.id)
    else:
        embedding, _chunks = embed_domain(embedder, list(read_documents(paths)))
    return _direction(embedding)


def vector_of_sample(registry: Registry, text: str) -> np.ndarray:
    """Return the mean vector [m] of a longer sample of text, chunked like a contributed domain."""
    from registry.domains.embedding import embed_domain, load_embedder

    embedding, _chunks = embed_domain(load_embedder(registry.embedder), [text])
    return _direction(embedding)


def _direction(embedding: DomainEmbedding) -> np.ndarray:
    """Return the domain's mean [m], L2-normalised so that search scores are cosines."""
    import numpy as np

    return embedding.mean / np.linalg.norm(embedding.mean)
