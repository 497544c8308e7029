"""Intake: a Hugging Face folder becomes a seed or an expert of the registry.

The order in `contribute` is: cheap checks, the streamed copy, the embedding, and last one transaction. A failure
before the transaction leaves at most blobs that no row refers to.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from registry.blobs import read_files
from registry.catalog import queries
from registry.catalog.publish import publish_expert, publish_seed
from registry.checkpoints.canonical import Progress, canonical_header
from registry.checkpoints.preflight import check_expert, check_seed
from registry.checkpoints.safe_files import printable
from registry.domains.documents import (
    MAX_HELD_OUT_BYTES,
    Sample,
    put_documents,
    split,
    without_near_duplicates,
)
from registry.domains.embedding import (
    Embedder,
    embed_domain,
    load_embedder,
    load_embedding,
    validate_embedding,
)
from registry.domains.index import update as update_index
from registry.domains.reading import read_documents
from registry.domains.rows import ChatFormat
from registry.domains.scores import card_vectors
from registry.domains.skipped import Skipped
from registry.domains.token_profile import check_profile, put_profile
from registry.errors import ConflictError, InvalidInputError, NotFoundError
from registry.home import Registry
from registry.intake.weights import Weights, checkpoint_weights, store_roles
from registry.licenses import check_license
from registry.names import check_name, check_new_name
from registry.paths import PathLike, Paths, as_path, as_paths
from registry.records import Digest, DomainEmbedding, ExpertRecord, NewExpert, SeedRecord

_NO_TEXT = Sample(train=[], held_out=[])


@dataclass(frozen=True)
class _Domain:
    """Domain embedding and digests of the stored text and vectors; all None without data."""

    embedding: DomainEmbedding | None = None
    sample: Digest | None = None
    held_out: Digest | None = None
    chunk_vectors: Digest | None = None


def add_seed(
    registry: Registry,
    name: str,
    source: PathLike,
    *,
    license: str,
    description: str = "",
    data: Paths = (),
    text_column: str | None = None,
    chat: ChatFormat | None = None,
    check: Callable[[Path], None] | None = None,
    origin: str | None = None,
    progress: Progress | None = None,
) -> SeedRecord:
    """Add the dense model that experts branch from; `data` is a sample of the seed's training text.

    `text_column` is the column of the text in tables, and `chat` renders conversations (registry/domains/reading.py).

    `origin` is the hub's repository and commit, hf:owner/name@commit. Adapters are compared with it.

    `check`, such as composer.experts.dry_run.check_runs, is called with the folder before anything is stored.

    Raises UnsafeFileError, InvalidInputError, NotFoundError, IncompatibleError (an unknown family or unknown
    tensors), LicenseError, ConflictError (the name is taken), StorageError.
    """
    registry.actor.require("publish seed")
    check_new_name(name)
    expression = check_license(license)
    _refuse_taken_seed(registry, name)
    source, data = as_path(source), as_paths(data)
    checkpoint = check_seed(source)
    if check is not None:
        check(source)
    text = _read_text(data, column=text_column, chat=chat)
    embedder = load_embedder(registry.embedder) if data else None

    ffn, trunk = store_roles(registry, checkpoint.roles, progress)
    files = {file: registry.blobs.put_bytes(content) for file, content in checkpoint.files.items()}
    domain = _store_domain(registry, embedder, text, progress, chat)
    return publish_seed(
        registry,
        name=name,
        license=expression,
        description=description,
        model_type=checkpoint.family.model_type,
        config={**checkpoint.config, **_origin(origin)},
        dtype=checkpoint.roles.dtype,
        parameters=checkpoint.roles.parameters,
        ffn=ffn,
        trunk=trunk,
        files=files,
        sample=domain.sample,
        held_out=domain.held_out,
        chunk_vectors=domain.chunk_vectors,
    )


def contribute(
    registry: Registry,
    name: str,
    source: PathLike | Weights,
    *,
    seed: str,
    license: str,
    data: Paths = (),
    held_out: Paths = (),
    text_column: str | None = None,
    chat: ChatFormat | None = None,
    embedding: PathLike | None = None,
    description: str = "",
    provenance: Mapping[str, Any] | None = None,
    allow_unchanged: bool = False,
    allow_unrelated: bool = False,
    draft: bool = False,
    progress: Progress | None = None,
) -> ExpertRecord:
    """Publish the next version of an expert from its folder and a sample of its training data.

    `source` may also be weights that were read already, as those of an adapter are.

    The domain is computed from `data`; one document in twenty is held out for evaluation, unless `held_out` text is
    given. For private data, give an `embedding` file that the owner computed; then no text is stored. An expert
    whose trunk equals the seed's is anchored: its trunk is the seed's blob. Weights that equal the seed's are
    refused unless `allow_unchanged`, and weights that were not trained from the seed unless `allow_unrelated`.
    `text_column` is the column of the text in tables, and `chat` renders conversations (registry/domains/reading.py).
    A `draft` is found only by its version, until `lifecycle.publish_draft`.
    The differences are recorded in the provenance. The folder's chat template is stored with the expert.

    Raises UnsafeFileError, InvalidInputError, InvalidEmbeddingError, NotFoundError, IncompatibleError (with
    every mismatch), LicenseError, ConflictError, StorageError.
    """
    registry.actor.require("publish expert")
    check_name(name)
    expression = check_license(license)
    _refuse_respelt_expert(registry, name)
    base = queries.get_seed(registry, seed)
    data, held_out = as_paths(data), as_paths(held_out)
    embedding = None if embedding is None else as_path(embedding)
    _require_one_source(data, held_out, embedding)
    with ExitStack() as stack:
        if isinstance(source, str | Path | os.PathLike):
            checkpoint = check_expert(base, read_files(registry.blobs, base.files), as_path(source))
            weights: Weights = checkpoint_weights(registry, base, checkpoint, stack)
        else:
            weights = source
        skipped = Skipped()
        text = _read_text(data, held_out, column=text_column, chat=chat, skipped=skipped)
        differences = weights.check(
            registry, base, allow_unchanged=allow_unchanged, allow_unrelated=allow_unrelated
        )
        embedder = load_embedder(registry.embedder)
        given = None if embedding is None else load_embedding(embedding)
        if given is not None:
            validate_embedding(given, embedder.id)
            if given.profile is not None:
                check_profile(given.profile, base)

        stored = weights.store(registry, base, progress)
        domain = _store_domain(registry, embedder, text, progress, chat) if given is None else _Domain(given)
        assert domain.embedding is not None, "the domain comes from the data or from the file"
        about = card_vectors(embedder, [(check_name(name), description)])[0]
        new = NewExpert(
            name=name,
            seed=base.name,
            license=expression,
            description=description,
            **stored,
            embedding=dataclasses.replace(domain.embedding, card=about),
            sample=domain.sample,
            held_out=domain.held_out,
            chunk_vectors=domain.chunk_vectors,
            profile=None
            if given is None or given.profile is None
            else put_profile(registry.blobs, given.profile),
            chat_template=None
            if weights.template is None
            else registry.blobs.put_bytes(weights.template.encode()),
            draft=draft,
            provenance={
                **(provenance or {}),
                **weights.remarks,
                "difference_from_seed": differences,
                **({"skipped": counts} if (counts := skipped.counts()) else {}),
            },
        )
        published = publish_expert(registry, new)
        update_index(registry, embedder.id)
        return published


def _origin(source: str | None) -> dict[str, str]:
    """Return the fields of a configuration that name a model on the hub and its commit, as transformers names them."""
    if source is None:
        return {}
    repository, _, commit = source.removeprefix("hf:").partition("@")
    return {"_name_or_path": repository, "_commit_hash": commit}


def _refuse_taken_seed(registry: Registry, name: str) -> None:
    """Raise ConflictError if the name is taken; publishing checks again, but only after the copy."""
    try:
        taken = queries.get_seed(registry, name)
    except NotFoundError:
        return
    raise ConflictError(f"a seed '{taken.name}' already exists: choose another name")


def _refuse_respelt_expert(registry: Registry, name: str) -> None:
    try:
        taken = queries.get_expert(registry, name)
    except NotFoundError:
        check_new_name(name)
        return
    if taken.name != check_name(name):
        raise ConflictError(
            f"'{check_name(name)}' differs only by case from the existing '{taken.name}': "
            f"write '{taken.name}' for its next version, or choose another name"
        )


def _require_one_source(data: Sequence[Path], held_out: Sequence[Path], embedding: Path | None) -> None:
    if (embedding is None) == (not data):
        raise InvalidInputError(
            "give either data or an embedding file: the domain comes from a sample of its text, or from the "
            "embedding that `nexusmix embed` computes"
        )
    if embedding is not None and held_out:
        raise InvalidInputError(
            "held-out text needs data, but an embedding file was given: it replaces private text"
        )


def _read_text(
    data: Sequence[Path],
    held_out: Sequence[Path] = (),
    *,
    column: str | None = None,
    chat: ChatFormat | None = None,
    skipped: Skipped | None = None,
) -> Sample:
    """Return the sample and the held-out text, limited in size; all explicit held-out text is held out.

    Held-out documents that nearly equal a training document are left out. `skipped` counts what was left out.
    """
    if not data:
        return _NO_TEXT
    skipped = Skipped() if skipped is None else skipped
    sample = split(read_documents(data, column=column, chat=chat, skipped=skipped), skipped=skipped)
    if held_out:
        # Split again only to limit the size: both parts are held out.
        explicit = split(
            read_documents(held_out, column=column, chat=chat, skipped=skipped), max_bytes=MAX_HELD_OUT_BYTES
        )
        tests = [*explicit.held_out, *explicit.train]
        known = set(tests)
        sample = Sample([text for text in sample.train if text not in known], tests)
    if not sample.train:
        raise InvalidInputError(
            f"no training text in {printable(', '.join(map(str, data)), 200)}: expected documents other than the "
            "held-out ones: give more documents"
        )
    if held_out:
        return sample
    again = read_documents(data, column=column, chat=chat)
    kept = without_near_duplicates(sample.held_out, again, None if chat is None else chat.plain)
    skipped.near_duplicates += len(sample.held_out) - len(kept)
    return Sample(sample.train, kept)


def _store_domain(
    registry: Registry,
    embedder: Embedder | None,
    text: Sample,
    progress: Progress | None,
    chat: ChatFormat | None = None,
) -> _Domain:
    if embedder is None:
        return _Domain()
    if progress is not None:
        progress("embedding", 0, 1)
    embedding, vectors = embed_domain(embedder, text.train, plain=None if chat is None else chat.plain)
    domain = _Domain(
        embedding=embedding,
        sample=put_documents(registry.blobs, text.train),
        chunk_vectors=_put_vectors(registry, vectors),
    )
    if text.held_out:
        domain = dataclasses.replace(domain, held_out=put_documents(registry.blobs, text.held_out))
    if progress is not None:
        progress("embedding", 1, 1)
    return domain


def _put_vectors(registry: Registry, vectors: np.ndarray) -> Digest:
    """Store chunk vectors [n, m] as a canonical file with one tensor, `vectors`."""
    rows = np.ascontiguousarray(vectors, dtype="<f4")
    return registry.blobs.put_bytes(canonical_header([("vectors", "F32", rows.shape)]) + rows.tobytes())
