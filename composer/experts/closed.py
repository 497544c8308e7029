"""Sharing of an expert whose text stays private: what its owner computes from the text, in place of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from composer.experts.weights import folder_weights
from composer.mix.lock import lock_seed
from composer.routed_trunk.profiles import Profiles
from composer.routed_trunk.strengths import OWNER_BYTES, strength_of
from registry.domains.token_profile import TOKENIZER_FILE
from registry.home import Registry
from registry.records import SeedRecord, TokenProfile


def shared_profile(
    registry: Registry, seed: SeedRecord, documents: Sequence[str], expert: Path | None = None
) -> TokenProfile:
    """Return the token profile that the owner of private documents shares in place of them.

    With the folder of the `expert`, a checkpoint or an adapter, it contains the expert's strength too. Raises the
    errors of `folder_weights`.
    """
    end = None if expert is None else folder_weights(registry, seed, expert)
    locked = lock_seed(seed)
    counted = Profiles(registry, locked).count(documents)
    strength = (
        None
        if end is None
        else strength_of(registry, locked, end, documents, str(expert), max_bytes=OWNER_BYTES)
    )
    return TokenProfile(seed.files[TOKENIZER_FILE], counted.unigrams, counted.bigrams, strength)
