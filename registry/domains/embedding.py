"""Domain embeddings: embed samples of text, and validate, save and load the results.

    embedder = load_embedder("all-MiniLM-L6-v2")
    embedding, chunk_vectors = embed_domain(embedder, documents)

An embedder's revision is a hash of its weights. So vectors of one model are comparable, whether it was resolved
from a folder, the hub or a package. m is the embedder's dimension, n the number of chunks, c the
number of centroids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from registry.checkpoints.safe_files import refuse_system_path
from registry.domains import token_profile
from registry.domains.documents import documents_sha256
from registry.domains.embedders import Embedder, load_embedder
from registry.errors import InvalidEmbeddingError, InvalidInputError, NotFoundError
from registry.records import DomainEmbedding, EmbedderId

__all__ = [
    "Embedder",
    "chunk_documents",
    "embed_domain",
    "load_embedder",
    "load_embedding",
    "save_embedding",
    "validate_embedding",
]

MAX_CHUNKS = 128  # embedding is most of the time of a contribution
CHUNK_CHARS = 1000
MIN_CHUNK_CHARS = 40
MAX_CENTROIDS = 8
CHUNKS_PER_CENTROID = 8
CLUSTERING_ROUNDS = 25
MAX_FILE_BYTES = 4 << 20
FILE_FORMAT = "nexusmix-domain-embedding/1"
PROFILE_FORMAT = "nexusmix-domain-embedding/2"  # the same with a token profile
_UNIT_TOLERANCE = 1e-3


def chunk_documents(
    documents: Sequence[str], *, limit: int = MAX_CHUNKS, chars: int = CHUNK_CHARS
) -> list[str]:
    """Return at most `limit` chunks of at most `chars` characters, spread evenly over the whole text.

    A remainder shorter than MIN_CHUNK_CHARS is dropped unless there is no other chunk. Stored vectors are those of
    the chunks with their number as `limit`, also if they were made with another limit.
    """
    pieces = [text[i : i + chars].strip() for text in documents for i in range(0, len(text), chars)]
    chunks = [piece for piece in pieces if len(piece) >= MIN_CHUNK_CHARS] or [p for p in pieces if p]
    if len(chunks) <= limit:
        return chunks
    return [chunks[i * len(chunks) // limit] for i in range(limit)]


def embed_domain(
    embedder: Embedder, documents: Sequence[str], *, plain: Callable[[str], str] | None = None
) -> tuple[DomainEmbedding, np.ndarray]:
    """Return the domain embedding of documents, and the vectors [n, m] of their chunks.

    `plain` is applied to each chunk before it is embedded: it removes the words of a chat template, which would make
    all domains of chat experts alike.

    Raises:
        InvalidInputError: there is no text to embed.
    """
    chunks = chunk_documents(documents)
    if not chunks:
        raise InvalidInputError("there is no text to embed; give at least one document that is not empty")
    vectors = embedder.encode(chunks if plain is None else [plain(chunk) or chunk for chunk in chunks])
    centroids, weights = _cluster(vectors)
    embedding = DomainEmbedding(
        embedder=embedder.id,
        mean=vectors.mean(axis=0, dtype=np.float64).astype(np.float32),
        centroids=centroids,
        centroid_weights=weights,
        chunk_count=len(chunks),
        sample_sha256=documents_sha256(documents),
    )
    return embedding, vectors


def validate_embedding(embedding: DomainEmbedding, expected: EmbedderId) -> None:
    """Refuse a domain embedding that is invalid or was not computed by the expected embedder.

    Raises:
        InvalidEmbeddingError: another embedder; wrong shapes; NaN or infinite values; a mean that is zero or
            longer than 1; centroids that are not unit vectors; weights that are not positive or do not sum to 1;
            too many or no centroids; no chunks; no hash of the sample.
    """
    if embedding.embedder != expected:
        raise InvalidEmbeddingError(
            f"the embedding was computed by {embedding.embedder}, but this registry's embedder is {expected}; "
            f"compute it again with `nexusmix embed`"
        )
    mean, centroids, weights = embedding.mean, embedding.centroids, embedding.centroid_weights
    count = len(weights)
    shapes = (mean.shape, centroids.shape, weights.shape)
    if shapes != ((expected.dimension,), (count, expected.dimension), (count,)):
        raise InvalidEmbeddingError(
            f"mean, centroids and weights have shapes {shapes[0]}, {shapes[1]}, {shapes[2]}; "
            f"expected [m], [c, m] and [c] with m = {expected.dimension}"
        )
    if not 1 <= count <= MAX_CENTROIDS:
        raise InvalidEmbeddingError(f"{count} centroids, expected 1 to {MAX_CENTROIDS}")
    for name, values in (("mean", mean), ("centroids", centroids), ("weights", weights)):
        if not np.isfinite(values).all():
            raise InvalidEmbeddingError(f"the {name} contain NaN or infinite values")
    length = float(np.linalg.norm(mean))
    if not 0 < length <= 1 + _UNIT_TOLERANCE:
        raise InvalidEmbeddingError(f"the mean has length {length:g}, expected more than 0 and at most 1")
    if np.abs(np.linalg.norm(centroids, axis=1) - 1).max() > _UNIT_TOLERANCE:
        raise InvalidEmbeddingError("a centroid does not have length 1")
    if weights.min() <= 0 or abs(float(weights.sum()) - 1) > _UNIT_TOLERANCE:
        raise InvalidEmbeddingError(
            f"the weights sum to {weights.sum():g}; expected positive shares that sum to 1"
        )
    if embedding.chunk_count < 1:
        raise InvalidEmbeddingError(f"the chunk count is {embedding.chunk_count}, expected at least 1")
    if not re.fullmatch(r"[0-9a-f]{64}", embedding.sample_sha256):
        raise InvalidEmbeddingError("the sample's sha256 is not 64 hexadecimal digits")


def save_embedding(path: Path, embedding: DomainEmbedding) -> None:
    """Write a domain embedding to the JSON file that an owner shares in place of private data."""
    content = {
        "format": FILE_FORMAT if embedding.profile is None else PROFILE_FORMAT,
        "embedder": {
            "name": embedding.embedder.name,
            "revision": embedding.embedder.revision,
            "dimension": embedding.embedder.dimension,
            "pooling": embedding.embedder.pooling,
        },
        "chunk_count": embedding.chunk_count,
        "sample_sha256": embedding.sample_sha256,
        "mean": embedding.mean.tolist(),
        "centroids": embedding.centroids.tolist(),
        "centroid_weights": embedding.centroid_weights.tolist(),
    }
    if embedding.profile is not None:
        content["token_profile"] = token_profile.to_json(embedding.profile)
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def load_embedding(path: Path) -> DomainEmbedding:
    """Read a file written by `save_embedding`; `validate_embedding` checks its values, not this function.

    Raises:
        NotFoundError: no such file.
        InvalidEmbeddingError: the file is not a domain embedding.
        UnsafeFileError: a path in /proc, /sys or /dev.
    """
    refuse_system_path(path)
    if not path.is_file():
        raise NotFoundError(f"no such embedding file: {path}")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise InvalidEmbeddingError(
            f"{path} has {size} bytes; an embedding file has at most {MAX_FILE_BYTES}"
        )
    try:
        return _parse(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidEmbeddingError(
            f"{path} is not a domain embedding ({error!r}); create one with `nexusmix embed`"
        ) from error


def _parse(content: Any) -> DomainEmbedding:
    if content["format"] not in (FILE_FORMAT, PROFILE_FORMAT):
        raise ValueError(f"format {content['format']!r}, expected {FILE_FORMAT!r} or {PROFILE_FORMAT!r}")
    has_profile = content["format"] == PROFILE_FORMAT
    embedder = content["embedder"]
    return DomainEmbedding(
        embedder=EmbedderId(
            name=str(embedder["name"]),
            revision=str(embedder["revision"]),
            dimension=int(embedder["dimension"]),
            pooling=str(embedder["pooling"]),
        ),
        mean=np.asarray(content["mean"], dtype=np.float32),
        centroids=np.asarray(content["centroids"], dtype=np.float32),
        centroid_weights=np.asarray(content["centroid_weights"], dtype=np.float32),
        chunk_count=int(content["chunk_count"]),
        sample_sha256=str(content["sample_sha256"]),
        profile=token_profile.from_json(content["token_profile"]) if has_profile else None,
    )


def _cluster(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run spherical k-means on unit vectors [n, m]: unit centroids [c, m] and their shares [c], largest first."""
    count = len(vectors)
    wanted = max(1, min(MAX_CENTROIDS, count // CHUNKS_PER_CENTROID))
    centroids = vectors[np.random.default_rng(0).permutation(count)[:wanted]].astype(np.float32)
    for _ in range(CLUSTERING_ROUNDS):
        nearest = (vectors @ centroids.T).argmax(axis=1)
        sums = (nearest == np.arange(wanted)[:, None]).astype(np.float32) @ vectors
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        # A centroid that is nearest to no vector is not moved.
        centroids = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centroids)
    nearest = (vectors @ centroids.T).argmax(axis=1)
    shares = np.bincount(nearest, minlength=wanted).astype(np.float32) / np.float32(count)
    largest_first = [i for i in np.argsort(-shares, kind="stable") if shares[i] > 0]
    return centroids[largest_first], shares[largest_first]
