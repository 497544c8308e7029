"""Train a dense expert: branch it from a seed, train it on one domain, write it as a Hugging Face folder."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from composer.errors import RecipeError
from composer.mix.lock import lock_seed
from composer.mix.opening import open_dense, open_tokenizer
from composer.progress import Progress, silent
from composer.tensors.torch_blobs import TORCH_DTYPES
from composer.training.data import mixed_rows
from registry.blobs import read_files
from registry.catalog import queries
from registry.checkpoints.families import assign_roles, family_of
from registry.checkpoints.tensors import read_header
from registry.domains import documents
from registry.domains.reading import read_documents
from registry.home import Registry
from registry.paths import PathLike, Paths, as_path, as_paths
from registry.work_folders import TRAINING, occupied

MODEL_FILE = "model.safetensors"


@dataclass(frozen=True)
class BranchResult:
    """Result of training an expert; losses are in nats per token of the training text."""

    folder: Path
    tokens: int
    first_loss: float
    last_loss: float
    seconds: float


def train_expert(
    registry: Registry,
    seed_name: str,
    data: Paths,
    out: PathLike,
    *,
    tokens: int,
    text_column: str | None = None,
    freeze_trunk: bool = False,
    learning_rate: float = 1e-3,
    sequence_length: int = 256,
    batch_tokens: int = 1024,
    random_seed: int = 0,
    progress: Progress = silent,
) -> BranchResult:
    """Train the seed on `data` for `tokens` tokens and write the result to the new folder `out`.

    `text_column` is the column of the text in tables (registry/domains/reading.py).
    Documents that the registry holds out, or keeps for choices between settings, are not used for training. With
    `freeze_trunk`, only the FFNs are trained. The expert is then anchored: its trunk stays the seed's, so composing
    loses nothing.
    An interrupted training resumes from its last checkpoint, which is stored next to `out`.

    Raises NotFoundError, RecipeError (no text, or `out` exists), TrainingDivergedError.
    """
    from composer.training.trainer import Schedule, fit

    started = time.monotonic()
    data, out = as_paths(data), as_path(out)
    if out.exists():
        raise RecipeError(f"{out} exists already; give a new folder for the expert")
    seed = lock_seed(queries.get_seed(registry, seed_name))
    texts = list(filter(_trains, read_documents(data, column=text_column)))
    if not texts:
        raise RecipeError(
            f"no text to train on in {', '.join(map(str, data))}; held-out documents, and those kept for choices, "
            "do not count"
        )
    tokenizer = open_tokenizer(registry.blobs, seed.files)
    rows = mixed_rows(
        tokenizer,
        {"domain": texts},
        {"domain": 1.0},
        tokens=tokens,
        length=sequence_length,
        random_seed=random_seed,
    )
    model = open_dense(registry, seed, seed.ffn, seed.trunk, dtype=torch.float32, trainable=True)
    trained = [p for name, p in model.named_parameters() if not freeze_trunk or ".mlp." in name]
    schedule = Schedule(learning_rate, max(1, batch_tokens // sequence_length), random_seed)
    with occupied(registry, out.with_name(f".{out.name}{TRAINING}"), keep=True) as work:
        losses = fit(model, rows, trained, schedule, work, stage=f"training {out.name}", progress=progress)
        _write(registry, seed.files, model, TORCH_DTYPES[seed.dtype], out)
    tail = losses[-max(1, len(losses) // 10) :]
    trained_tokens = math.prod((len(rows), sequence_length))
    return BranchResult(out, trained_tokens, losses[0], sum(tail) / len(tail), time.monotonic() - started)


def _trains(text: str) -> bool:
    return not documents.is_held_out(text) and not documents.is_for_choices(text)


def _write(registry: Registry, files: dict[str, str], model: Any, dtype: torch.dtype, out: Path) -> None:
    """Write the new weights with the seed's configuration and tokenizer; the folder appears only when complete."""
    from composer.formats.folder import new_folder

    with new_folder(registry, out) as folder:
        for file, content in read_files(registry.blobs, files).items():
            (folder / file).write_bytes(content)
        tied = set(getattr(model, "all_tied_weights_keys", {}))
        tensors = {k: v.to(dtype).cpu().contiguous() for k, v in model.state_dict().items() if k not in tied}
        save_file(tensors, folder / MODEL_FILE, metadata={"format": "pt"})
        config = model.config.to_dict()
        assign_roles(family_of(config), config, read_header(folder / MODEL_FILE))
