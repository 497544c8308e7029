"""Token profiles: the frequencies of a domain's tokens and token pairs, which an owner may share in place of text.

A mix of whole experts routes by them (composer/model/routed.py). A profile reveals how often each token of the
vocabulary occurs in the text, and how often each of 65,536 groups of token pairs does. It contains no text and no
longer sequence. V is the size of the seed's vocabulary.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from registry.blobs import BlobStore
from registry.checkpoints.canonical import canonical_header
from registry.errors import InvalidEmbeddingError
from registry.records import Digest, SeedRecord, TokenProfile

PAIRS = 65_536
TABLES = ("bigrams", "unigrams")
TOKENIZER_FILE = "tokenizer.json"


def check_profile(profile: TokenProfile, seed: SeedRecord) -> None:
    """Raise InvalidEmbeddingError if the profile is invalid, or was counted with another tokenizer."""
    remedy = "compute it again with `nexusmix embed --seed`"
    if profile.tokenizer != seed.files[TOKENIZER_FILE]:
        raise InvalidEmbeddingError(
            f"the token profile was counted with tokenizer {profile.tokenizer}, but {seed.name} has "
            f"{seed.files[TOKENIZER_FILE]}; {remedy}"
        )
    expected = ((PAIRS,), (int(seed.config["vocab_size"]),))
    shapes = tuple(getattr(profile, name).shape for name in TABLES)
    if shapes != expected:
        raise InvalidEmbeddingError(
            f"the token profile's {' and '.join(TABLES)} have shapes {shapes}, expected {expected}; {remedy}"
        )
    for name in TABLES:
        values = getattr(profile, name).astype(np.float64)
        if not np.isfinite(values).all() or values.max() > 0:
            raise InvalidEmbeddingError(
                f"the token profile's {name} must be finite logarithms of frequencies, at most 0; {remedy}"
            )


def put_profile(blobs: BlobStore, profile: TokenProfile) -> Digest:
    """Store a profile as one canonical blob of float16 tensors."""
    with blobs.writer() as writer:
        writer.write(canonical_header((name, "F16", getattr(profile, name).shape) for name in TABLES))
        for name in TABLES:
            writer.write(np.ascontiguousarray(getattr(profile, name), dtype="<f2").tobytes())
    return writer.digest


def to_json(profile: TokenProfile) -> dict[str, str]:
    """Return the profile's part of an embedding file: tables as base64 of little-endian float16."""
    tables = {name: base64.b64encode(getattr(profile, name).astype("<f2").tobytes()) for name in TABLES}
    return {"tokenizer": profile.tokenizer, **{name: text.decode() for name, text in tables.items()}}


def from_json(content: Mapping[str, Any]) -> TokenProfile:
    """Read the part written by `to_json`. Raises ValueError, KeyError or TypeError for anything else."""
    tables = {
        name: np.frombuffer(base64.b64decode(content[name], validate=True), dtype="<f2") for name in TABLES
    }
    return TokenProfile(tokenizer=str(content["tokenizer"]), **tables)
