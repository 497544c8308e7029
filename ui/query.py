"""From a pasted sample or files to the vector that the catalog is searched with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from registry.home import Registry
    from registry.records import DomainEmbedding

# Below this cosine, sentence embedders see little more in common than that both are text.
CLOSE = 0.15


def vector_of_files(registry: Registry, paths: Sequence[Path]) -> np.ndarray:
    """The mean vector [m] of the text in files and folders, or of a file made by `nexusmix embed`."""
    from registry.domains.documents import read_documents
    from registry.domains.embedding import (
        embed_domain,
        load_embedder,
        load_embedding,
        validate_embedding,
    )

    embedder = load_embedder(registry.embedder)
    if len(paths) == 1 and paths[0].suffix == ".json":
        embedding = load_embedding(paths[0])
        validate_embedding(embedding, embedder.id)
    else:
        embedding, _chunks = embed_domain(embedder, list(read_documents(paths)))
    return _direction(embedding)


def vector_of_sample(registry: Registry, text: str) -> np.ndarray:
    """The mean vector [m] of a longer sample of text, chunked as a contributed domain is."""
    from registry.domains.embedding import embed_domain, load_embedder

    embedding, _chunks = embed_domain(load_embedder(registry.embedder), [text])
    return _direction(embedding)


def _direction(embedding: DomainEmbedding) -> np.ndarray:
    """The domain's mean [m], L2-normalised so that a search's scores are cosines."""
    import numpy as np

    return embedding.mean / np.linalg.norm(embedding.mean)
