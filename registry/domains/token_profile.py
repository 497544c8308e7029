"""Token profiles: the frequencies of a domain's tokens and token pairs, which an owner may share in place of text.

A mix of whole experts routes by them (composer/model/routed.py). A profile reveals how often each token of the
vocabulary occurs in the text, and how often each of 65,536 groups of token pairs does. It contains no text and no
longer sequence. It may also contain one number about the expert: its strength. V is the size of the seed's vocabulary.
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
STRENGTH = "strength"
MOST_STRENGTH = 2.0
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
    if profile.strength is not None and not 0 < profile.strength <= MOST_STRENGTH:
        raise InvalidEmbeddingError(
            f"the strength is {profile.strength}, expected a number above 0 and at most {MOST_STRENGTH:g}; {remedy}"
        )


def put_profile(blobs: BlobStore, profile: TokenProfile) -> Digest:
    """Store a profile as one canonical blob: float16 tables, and the strength [1] in float32 if it is known."""
    tensors = {name: np.ascontiguousarray(getattr(profile, name), dtype="<f2") for name in TABLES}
    if profile.strength is not None:
        tensors[STRENGTH] = np.array([profile.strength], dtype="<f4")
    dtypes = {2: "F16", 4: "F32"}
    with blobs.writer() as writer:
        writer.write(canonical_header((n, dtypes[t.itemsize], t.shape) for n, t in tensors.items()))
        for name in sorted(tensors):
            writer.write(tensors[name].tobytes())
    return writer.digest


def to_json(profile: TokenProfile) -> dict[str, str | float]:
    """Return the profile's part of an embedding file: tables as base64 of little-endian float16."""
    tables = {name: base64.b64encode(getattr(profile, name).astype("<f2").tobytes()) for name in TABLES}
    strength = {} if profile.strength is None else {STRENGTH: profile.strength}
    return {
        "tokenizer": profile.tokenizer,
        **strength,
        **{name: text.decode() for name, text in tables.items()},
    }


def from_json(content: Mapping[str, Any]) -> TokenProfile:
    """Read the part written by `to_json`. Raises ValueError, KeyError or TypeError for anything else."""
    tables = {
        name: np.frombuffer(base64.b64decode(content[name], validate=True), dtype="<f2") for name in TABLES
    }
    strength = content.get(STRENGTH)
    return TokenProfile(
        tokenizer=str(content["tokenizer"]), strength=None if strength is None else float(strength), **tables
    )
