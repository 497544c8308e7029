"""Bits per byte: a measure of how well a causal LM predicts text, comparable across tokenizers. Lower is better.

Shape suffixes: W windows of a batch, R rows, S tokens per row, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from composer.derived import derived_number
from composer.processes import ALONE, Team
from composer.training.data import separator
from registry.home import Registry

BATCH_WINDOWS = 8
# The name of their cache. Scores before 2 were computed in half precision where the weights are, those before 3 JSON.
SCORES = "scores-3"
LOGITS = 2**28  # elements: one gigabyte in float32
PIECE_BYTES = 2048  # about one window


@dataclass(frozen=True)
class HeldOut:
    """Held-out text of a domain, as token windows [S + 1] that overlap by one token."""

    windows: list[torch.Tensor]
    text_bytes: int
    digest: str

    def signature(self) -> dict[str, Any]:
        """Return the identity of the text, stored with its scores; scores with equal signatures are comparable."""
        return {"sha256": self.digest, "bytes": self.text_bytes}


def windows(tokenizer: Any, documents: Sequence[str], *, max_bytes: int, length: int) -> HeldOut:
    """Cut up to `max_bytes` of text, sampled from all documents, into windows of at most `length` predicted tokens.

    Every token after the first separator is predicted exactly once.
    """
    texts = excerpts(documents, max_bytes)
    end = separator(tokenizer)
    stream = [
        t
        for text in texts
        for t in [*end, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
    ]
    ids = torch.tensor(stream + end)
    cuts = [ids[start : start + length + 1] for start in range(0, len(ids) - 1, length)]
    digest = hashlib.sha256(json.dumps([texts, length]).encode()).hexdigest()
    return HeldOut(cuts, sum(len(text.encode()) for text in texts), digest)


def excerpts(documents: Sequence[str], max_bytes: int) -> list[str]:
    """Return all documents, or evenly spaced pieces of them with `max_bytes` in total.

    The first documents alone would not be representative: one long table could fill `max_bytes`.
    """
    encoded = [document.encode() for document in documents]
    if sum(map(len, encoded)) <= max_bytes:
        return [document for document in documents if document]
    size = min(PIECE_BYTES, max_bytes)
    pieces = [text[start : start + size] for text in encoded for start in range(0, len(text), size)]
    count = math.ceil(max_bytes * len(pieces) / sum(map(len, pieces)))
    taken, left = [], max_bytes
    for i in range(count):
        piece = pieces[i * len(pieces) // count][:left]
        taken.append(piece.decode("utf-8", "ignore"))
        left -= len(piece)
    return [text for text in taken if text]


def bits_per_byte(
    model: Any, held_out: HeldOut, after_batch: Callable[[], None] | None = None, *, team: Team = ALONE
) -> float:
    """Return the mean bits per byte of the held-out text. `after_batch` is called after each forward pass.

    Every process of `team` calls it with equal weights, reads its share of the windows, and returns the same.
    """
    own = held_out.windows[team.rank :: team.size]
    full = [w for w in own if len(w) == len(held_out.windows[0])]
    rest = [w for w in own if len(w) != len(held_out.windows[0])]
    nats = 0.0
    for rows_RS in [*([torch.stack(full)] if full else []), *(w[None] for w in rest)]:
        nats += token_nats(model, rows_RS, after_batch).double().sum().item()
    if team.size > 1:
        nats = team.total(torch.tensor(nats, dtype=torch.float64, device=model.device)).item()
    return nats / math.log(2) / held_out.text_bytes


@torch.inference_mode()
def token_nats(
    model: Any, ids_RS: torch.Tensor, after_batch: Callable[[], None] | None = None, *, last: bool = False
) -> torch.Tensor:
    """Return −log p of every token except the first, [R, S − 1].

    `after_batch` is called after each forward pass. With `last`, the last token passes forward as well, for its
    routing. A batch has at most BATCH_WINDOWS rows, and logits of at most LOGITS elements.
    """
    vocabulary = model.config.get_text_config().vocab_size
    size = max(1, min(BATCH_WINDOWS, LOGITS // (ids_RS.shape[1] * vocabulary)))
    found = []
    for batch_WS in ids_RS.split(size):
        ids = batch_WS.to(model.device)
        logits = model(input_ids=ids if last else ids[:, :-1], use_cache=False).logits
        for logits_SV, ids_S in zip(logits, ids[:, 1:], strict=True):
            found.append(F.cross_entropy(logits_SV[: len(ids_S)].float(), ids_S, reduction="none").cpu())
        del logits, logits_SV  # else they would be in memory together with those of the next batch
        if after_batch is not None:
            after_batch()
    return torch.stack(found)


@dataclass(frozen=True)
class ScoreCache:
    """Cache of scores by the digests of the weights and of the text; in one dtype, such scores never change."""

    registry: Registry
    dtype: torch.dtype

    def get(self, weights: Sequence[str], text: HeldOut, compute: Callable[[], float]) -> float:
        """Return the stored score, or store and return `compute()`. Raises StorageError."""
        dtype = [] if self.dtype == torch.float32 else [str(self.dtype)]
        return derived_number(self.registry, SCORES, [*weights, text.digest, *dtype], compute)
