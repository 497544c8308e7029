"""Vocabulary of an expert's embedding and head, brought into the order and size of its seed's.

Fine-tunes pad the embedding to another size, or add tokens in another order. A row belongs to a token, not to a number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from registry.checkpoints.canonical import canonical_header
from registry.checkpoints.dtypes import STORED, decode, encode
from registry.checkpoints.family import Family
from registry.checkpoints.safe_files import open_regular
from registry.checkpoints.tensors import TensorInfo, read_header
from registry.checkpoints.tokenizers import token_ids

NONE = -1  # the expert has no row for this token
_PIECE_ROWS = 4096


def token_rows(
    seed_files: Mapping[str, bytes], expert_files: Mapping[str, bytes], seed_rows: int, expert_rows: int
) -> list[int] | None:
    """Return the expert's row for each row of the seed's embedding; None if all are in their places.

    Rows without a token are padding, which no text reaches. Raises UnsafeFileError for malformed JSON.
    """
    if seed_rows == expert_rows and seed_files.get("tokenizer.json") == expert_files.get("tokenizer.json"):
        return None
    mine, theirs = token_ids(seed_files), token_ids(expert_files)
    taken = set(theirs.values())
    rows = [row if row < expert_rows else NONE for row in range(seed_rows)]
    for token, place in mine.items():
        if not 0 <= place < seed_rows:
            continue
        found = theirs.get(token)
        if found is not None:
            rows[place] = found if 0 <= found < expert_rows else NONE
        elif rows[place] in taken:  # by another token of the expert
            rows[place] = NONE
    return None if seed_rows == expert_rows and rows == list(range(seed_rows)) else rows


def of_vocabulary(family: Family) -> list[str]:
    """Return the names of the tensors with one row per token."""
    return [name for name, spec in family.trunk.items() if spec.split()[0] == "v"]


def reordered(
    path: Path,
    family: Family,
    seed: Mapping[str, TensorInfo],
    expert: Mapping[str, TensorInfo],
    rows: Sequence[int],
) -> dict[str, TensorInfo]:
    """Write the expert's embedding and head in the seed's order to a new file, and return the trunk with them.

    Rows that the expert lacks are the seed's. One piece of a tensor is in memory at a time.
    """
    names = [name for name in of_vocabulary(family) if name in expert]
    shapes = {name: (len(rows), *expert[name].shape[1:]) for name in names}
    with path.open("wb") as out:
        out.write(canonical_header((name, expert[name].dtype, shapes[name]) for name in names))
        for name in sorted(names):
            for piece in _pieces(seed[name], expert[name], np.asarray(rows)):
                out.write(piece.tobytes())
    return {**expert, **read_header(path)}


def _pieces(seed: TensorInfo, expert: TensorInfo, rows: np.ndarray) -> Iterator[np.ndarray]:
    with contextlib.ExitStack() as stack:
        mine, theirs = (_mapped(stack, info) for info in (seed, expert))
        for start in range(0, len(rows), _PIECE_ROWS):
            chosen = rows[start : start + _PIECE_ROWS]
            piece = theirs[np.maximum(chosen, 0)]
            for place in np.flatnonzero(chosen == NONE):
                piece[place] = encode(decode(mine[start + place], seed.dtype), expert.dtype)
            yield piece


def _mapped(stack: contextlib.ExitStack, info: TensorInfo) -> np.ndarray:
    file = stack.enter_context(open_regular(info.path))
    return np.memmap(file, dtype=STORED[info.dtype], mode="r", offset=info.start, shape=info.shape)
