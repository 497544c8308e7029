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

Documents = Sequence[str]


def pack(tokenizer: Any, documents: Iterable[str], length: int, max_rows: int | None = None) -> torch.Tensor:
    """Join documents by end-of-text tokens and cut them into full rows [R, S = length].

    There is no padding and no attention mask. Stops when `max_rows` rows are full. Raises RecipeError if the text is
    shorter than one row.
    """
    end = separator(tokenizer)
    rows: list[list[int]] = []
    stream: list[int] = []
    for document in documents:
        stream += [*end, *tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]]
        full = len(stream) // length * length
        rows += [stream[start : start + length] for start in range(0, full, length)]
        stream = stream[full:]
        if max_rows is not None and len(rows) >= max_rows:
            rows = rows[:max_rows]
            break
    if not rows:
        raise RecipeError(
            f"the text has {len(stream)} tokens; at least one row of {length} tokens is needed: give more text"
        )
    return torch.tensor(rows)


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


def characters(domains: Mapping[str, Documents]) -> dict[str, float]:
    """Count the characters of each domain's text."""
    return {name: float(sum(map(len, documents))) for name, documents in domains.items()}


def mixed_rows(
    tokenizer: Any,
    domains: Mapping[str, Documents],
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
        rows_RS = pack(tokenizer, shuffled, length, wanted)
        columns: dict[str, Any] = {"input_ids": rows_RS.numpy()}
        if experts:
            columns["own_expert"] = [experts.index(name) if name in experts else -1] * len(rows_RS)
        parts.append(Dataset.from_dict(columns))
        # A row is repeated by repeating its index, so memory depends on the text, not on the number of tokens.
        order.append(first + np.arange(wanted) % len(rows_RS))
        first += len(rows_RS)
    rows = concatenate_datasets(parts).select(np.concatenate(order))
    return rows.shuffle(seed=random_seed).with_format("torch")
