"""Packed training rows from the text of domains.

Shape suffixes: R rows, S tokens of a row.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from composer.errors import MissingTextError, RecipeError
from registry.domains.rows import Document

Documents = Sequence[str]
Marked = Sequence[str | Document]  # documents of which perhaps only the answers count in the loss
IGNORED = -100  # the label of a token that does not count in the loss


def pack(
    tokenizer: Any, documents: Iterable[str | Document], length: int, max_rows: int | None = None
) -> torch.Tensor:
    """Return the token ids of `packed`."""
    return packed(tokenizer, documents, length, max_rows)["input_ids"]


def packed(
    tokenizer: Any, documents: Iterable[str | Document], length: int, max_rows: int | None = None
) -> dict[str, torch.Tensor]:
    """Join documents by end-of-text tokens and cut them into full rows: `input_ids` [R, S = length].

    There is no padding and no attention mask. Stops when `max_rows` rows are full. If a document has answers, only
    these count in its loss: there are `labels` [R, S] too, and a row in which nothing counts is left out.

    Raises RecipeError if the text is shorter than one row.
    """
    end = separator(tokenizer)
    rows: list[list[int]] = []
    labels: list[list[int]] = []
    ids: list[int] = []
    targets: list[int] = []
    is_marked = False
    for document in documents:
        new, counted = _encoded(tokenizer, document)
        is_marked |= counted is not None
        ids += [*end, *new]
        targets += [*end, *new] if counted is None else [*(IGNORED for _ in end), *counted]
        full = len(ids) // length * length
        for start in range(0, full, length):
            if any(target != IGNORED for target in targets[start + 1 : start + length]):
                rows.append(ids[start : start + length])
                labels.append(targets[start : start + length])
        ids, targets = ids[full:], targets[full:]
        if max_rows is not None and len(rows) >= max_rows:
            rows, labels = rows[:max_rows], labels[:max_rows]
            break
    if not rows:
        raise RecipeError(
            f"the text has {len(ids)} tokens; at least one row of {length} tokens is needed: give more text"
        )
    return {"input_ids": torch.tensor(rows)} | ({"labels": torch.tensor(labels)} if is_marked else {})


def _encoded(tokenizer: Any, document: str | Document) -> tuple[list[int], list[int] | None]:
    """Return the token ids of a document, and its labels if only its answers count."""
    text, answers = (document, None) if isinstance(document, str) else (document.text, document.answers)
    if answers is None:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], None
    encoded = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    labels = [IGNORED] * len(ids)
    token = 0
    for start, stop in answers:
        # A token counts if it ends inside the answer: one that begins with the space before an answer does.
        while token < len(ids) and offsets[token][1] <= start:
            token += 1
        while token < len(ids) and offsets[token][0] < stop:
            labels[token] = ids[token]
            token += 1
    return ids, labels


def token_ids(tokenizer: Any, documents: Iterable[str], most_chars: int) -> Iterator[torch.Tensor]:
    """Yield the token ids of each document, until `most_chars` characters were read; the last one is cut there."""
    left = most_chars
    for document in documents:
        if left <= 0:
            return
        ids = tokenizer(document[:left], add_special_tokens=False, verbose=False)["input_ids"]
        yield torch.tensor(ids, dtype=torch.long)
        left -= len(document)


def separator(tokenizer: Any) -> list[int]:
    """Return the token between documents: end of text, else beginning of text, else none."""
    for token in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        if token is not None:
            return [token]
    return []


def shares(weights: Mapping[str, float], new: str | None = None) -> dict[str, float]:
    """Return each domain's share of the training tokens, in proportion to its weight.

    A `new` domain gets half of all tokens, and the others share the rest.
    """
    rest = {name: weight for name, weight in weights.items() if name != new}
    if not rest:
        return dict.fromkeys(weights, 1.0)
    for_rest, total = (1.0 if len(rest) == len(weights) else 0.5), sum(rest.values())
    return {name: for_rest * rest[name] / total if name in rest else 0.5 for name in weights}


def characters(domains: Mapping[str, Marked]) -> dict[str, float]:
    """Count the characters of each domain's text."""
    return {
        name: float(sum(len(each if isinstance(each, str) else each.text) for each in documents))
        for name, documents in domains.items()
    }


def mixed_rows(
    tokenizer: Any,
    domains: Mapping[str, Marked],
    share: Mapping[str, float],
    *,
    tokens: int,
    length: int,
    random_seed: int,
    experts: Sequence[str] = (),
) -> Any:
    """Build a `datasets.Dataset` of `tokens` tokens in random rows, with the given share of each domain.

    Documents are drawn at random, and a domain with too little text is repeated. With `experts`, the column
    `own_expert` is the index of the expert with the domain's name, or −1 for none. Raises MissingTextError if no
    domain has text, RecipeError if the text of a domain is shorter than one row.
    """
    from datasets import Dataset, concatenate_datasets

    if not domains:
        raise MissingTextError(
            "no domain of this mix has text to train on (its contributors shared only embeddings): "
            "use --tokens 0, or contribute an expert with --data"
        )
    total = sum(share[name] for name in domains)
    parts: list[Any] = []
    order: list[np.ndarray] = []
    first = 0
    for name, documents in domains.items():
        wanted = max(1, round(tokens * share[name] / total / length))
        shuffled = list(documents)
        random.Random(f"{random_seed}/{name}").shuffle(shuffled)
        rows_RS = packed(tokenizer, shuffled, length, wanted)
        count = len(rows_RS["input_ids"])
        columns: dict[str, Any] = {column: values.numpy() for column, values in rows_RS.items()}
        if experts:
            columns["own_expert"] = [experts.index(name) if name in experts else -1] * count
        parts.append(Dataset.from_dict(columns))
        # A row is repeated by repeating its index, so memory depends on the text, not on the number of tokens.
        order.append(first + np.arange(wanted) % count)
        first += count
    rows = concatenate_datasets(parts).select(np.concatenate(order))
    return rows.shuffle(seed=random_seed).with_format("torch")
