"""Train a dense expert: branch it from a seed, train it on one domain, write it as a Hugging Face folder."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from composer.chat.format import TEMPLATE_FILE, chat_format, read_template
from composer.errors import RecipeError
from composer.mix.lock import lock_seed
from composer.mix.opening import open_dense, open_tokenizer
from composer.progress import Progress, silent
from composer.tensors.torch_blobs import TORCH_DTYPES
from composer.training.data import mixed_rows
from registry.blobs import read_files
from registry.catalog import queries
from registry.checkpoints.families import assign_roles, family_of
from registry.checkpoints.safe_files import printable
from registry.checkpoints.tensors import read_header
from registry.domains import documents
from registry.domains.reading import read_marked
from registry.domains.rows import Document
from registry.domains.skipped import Skipped
from registry.home import Registry
from registry.paths import PathLike, Paths, as_path, as_paths
from registry.work_folders import TRAINING, occupied

MODEL_FILE = "model.safetensors"
# Text that is kept for training: enough for the tokens that are asked for, in any language.
BYTES_PER_TOKEN, LEAST_BYTES = 16, 16 << 20


@dataclass(frozen=True)
class BranchResult:
    """Result of training an expert; losses are in nats per token of the text that counts."""

    folder: Path
    tokens: int
    first_loss: float
    last_loss: float
    seconds: float
    skipped: dict[str, int] = field(default_factory=dict)  # registry/domains/skipped.py


def train_expert(
    registry: Registry,
    seed_name: str,
    data: Paths,
    out: PathLike,
    *,
    tokens: int,
    text_column: str | None = None,
    chat_template: PathLike | None = None,
    freeze_trunk: bool = False,
    learning_rate: float = 1e-3,
    sequence_length: int = 256,
    batch_tokens: int = 1024,
    random_seed: int = 0,
    progress: Progress = silent,
) -> BranchResult:
    """Train the seed on `data` for `tokens` tokens and write the result to the new folder `out`.

    `text_column` is the column of the text in tables (registry/domains/reading.py). Conversations are rendered by the
    template in the file `chat_template`, which is written to `out`, else by the seed's. Only their answers count in the
    loss.
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
    template = None if chat_template is None else read_template(as_path(chat_template))
    skipped = Skipped()
    with chat_format(registry.blobs, seed.files, template=template) as chat:
        found = read_marked(data, column=text_column, chat=chat, skipped=skipped)
        texts = _sample(found, max(LEAST_BYTES, BYTES_PER_TOKEN * tokens))
    if not texts:
        raise RecipeError(
            f"no text to train on in {printable(', '.join(map(str, data)), 200)}; held-out documents, and those kept "
            "for choices, do not count: give more documents"
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
        _write(registry, seed.files, model, TORCH_DTYPES[seed.dtype], out, template)
    tail = losses[-max(1, len(losses) // 10) :]
    trained_tokens = math.prod((len(rows), sequence_length))
    seconds = time.monotonic() - started
    return BranchResult(out, trained_tokens, losses[0], sum(tail) / len(tail), seconds, skipped.counts())


def _sample(found: Iterable[Document], limit: int) -> list[Document]:
    """Return the training documents, or a sample of `limit` bytes of more: memory does not grow with the data."""
    sample = documents.Reservoir(limit)
    for document in found:
        if not documents.is_held_out(document.text) and not documents.is_for_choices(document.text):
            sample.add(document)
    return sample.documents(as_read=True)


def _write(
    registry: Registry,
    files: dict[str, str],
    model: Any,
    dtype: torch.dtype,
    out: Path,
    template: str | None = None,
) -> None:
    """Write the new weights with the seed's configuration and tokenizer; the folder appears only when complete."""
    from composer.formats.folder import new_folder

    with new_folder(registry, out) as folder:
        for file, content in read_files(registry.blobs, files).items():
            (folder / file).write_bytes(content)
        if template is not None:
            (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")
        tied = set(getattr(model, "all_tied_weights_keys", {}))
        tensors = {k: v.to(dtype).cpu().contiguous() for k, v in model.state_dict().items() if k not in tied}
        save_file(tensors, folder / MODEL_FILE, metadata={"format": "pt"})
        config = model.config.to_dict()
        assign_roles(family_of(config), config, read_header(folder / MODEL_FILE))
