"""Extension of a seed by tokens: the same model with more rows in its embedding and head, published as a new seed.

Instruct tunes of a base model often add tokens, such as <|im_start|>. Experts of the base seed keep their places; those
with the new tokens belong to the extended seed.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from composer.experts.dry_run import check_runs
from composer.mix.lock import lock_seed
from composer.mix.opening import open_dense, open_tokenizer
from composer.tensors.torch_blobs import TORCH_DTYPES
from registry.blobs import read_files
from registry.catalog import queries
from registry.checkpoints.preflight import read_small_files
from registry.checkpoints.tokenizers import new_tokens
from registry.errors import ConflictError, InvalidInputError
from registry.home import Registry
from registry.intake.intake import add_seed
from registry.paths import Paths, as_paths
from registry.records import SeedRecord
from registry.work_folders import occupied, work_folder

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def extend_seed(
    registry: Registry, name: str, seed_name: str, folders: Paths = (), *, untie: bool = False
) -> SeedRecord:
    """Publish a seed by another one and the added tokens of the tokenizers in `folders`.

    The row of a new token is the mean of the seed's rows. With `untie`, the head becomes a tensor of its own, a copy of
    the embedding, for experts that change one of them. Raises NotFoundError, InvalidInputError (no new tokens),
    ConflictError (the name is taken, or the folders define one token differently), and the errors of `add_seed`.
    """
    seed = queries.get_seed(registry, seed_name)
    tokens = _union(read_files(registry.blobs, seed.files), as_paths(folders))
    if not tokens and not untie:
        raise InvalidInputError(
            f"the tokenizers have no token that seed {seed.name} lacks: contribute to {seed.name} itself"
        )
    changes = [f"with {len(tokens)} more tokens"] * bool(tokens) + ["with a head of its own"] * untie
    with occupied(registry, work_folder(registry, f"extend-{uuid.uuid4().hex}")) as work:
        _write(registry, seed, tokens, work, untie=untie)
        return add_seed(
            registry,
            name,
            work,
            license=seed.license,
            description=f"{seed.name} {' and '.join(changes)}. {seed.description}".strip(),
            check=check_runs,
        )


def _union(seed_files: dict[str, bytes], folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the new tokens of all folders in order. Raises ConflictError for one that is defined in two ways."""
    found: dict[str, dict[str, Any]] = {}
    for folder in folders:
        for token in new_tokens(seed_files, read_small_files(folder, ("tokenizer.json",))):
            content = token.get("content")
            if not isinstance(content, str) or not content:
                continue
            own = {flag: token.get(flag) is True for flag in _FLAGS}
            if found.setdefault(content, own) != own:
                raise ConflictError(
                    f"{folder}: the token {content!a} is defined otherwise in another folder: make two seeds, one for "
                    "each, or save both tokenizers with one definition"
                )
    return [{"content": content, **flags} for content, flags in found.items()]


def _write(
    registry: Registry, seed: SeedRecord, tokens: Sequence[dict[str, Any]], folder: Path, *, untie: bool
) -> None:
    """Write the extended model and tokenizer as a Hugging Face folder."""
    import torch
    from transformers import AddedToken

    locked = lock_seed(seed)
    tokenizer = open_tokenizer(registry.blobs, locked.files)
    tokenizer.add_tokens([AddedToken(**token) for token in tokens])
    dtype = TORCH_DTYPES[seed.dtype]
    model = open_dense(registry, locked, seed.ffn, seed.trunk, dtype=dtype, trainable=True)
    before = model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        if len(tokenizer) > before:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for part in (model.get_input_embeddings(), model.get_output_embeddings()):
            if part is not None:
                known = min(before, len(tokenizer) - len(tokens))
                part.weight[len(tokenizer) - len(tokens) :] = part.weight[:known].float().mean(0).to(dtype)
        if untie:
            model.config.tie_word_embeddings = False
            model.get_output_embeddings().weight = torch.nn.Parameter(
                model.get_input_embeddings().weight.clone()
            )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
