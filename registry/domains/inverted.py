"""The index of a large segment: an inverted file of coarse codes, whose best candidates are ranked by finer ones.

A search visits the lists whose centres are nearest to the query. It compares codes of 4 bits per DIMENSIONS_A_CODE
dimensions (product quantisation, Jégou et al. 2011; scanned in registers, André et al. 2015), then ranks WIDER times
as many vectors as are asked for by codes of 8 bits per dimension. m is the embedder's dimension.
"""

from __future__ import annotations

from typing import Any

import numpy as np

RECALL = 0.995  # least share of the nearest vectors that are among the candidates
LEAST_CANDIDATES = 32  # results that a search compares exactly with its query, at least
WIDER = 8
DIMENSIONS_A_CODE = (4, 2, 3, 5, 1)  # the first that divides m
VECTORS_A_LIST_TRAIN = 40
_TRAINING_ROUNDS = 6
_TRIALS = 128  # queries that measure the recall; 32 once found 8 lists enough where 256 were needed
_TRIAL_NOISE = (
    2.0  # they are farther from the vectors than the vectors from each other, as short requests are
)
_TRIAL_RESULTS = 10
_TRIAL_VECTORS = 160  # those of a search for ten experts


def lists_for(vectors: int) -> int:
    """Return the number of lists for about this many vectors: the power of two nearest to its square root."""
    return int(2 ** round(np.log2(vectors) / 2))


def trained(sample: np.ndarray, lists: int) -> Any:
    """Return an empty FAISS index with ids, trained on vectors [s, m]."""
    import faiss

    dimension = sample.shape[1]
    codes = dimension // next(width for width in DIMENSIONS_A_CODE if dimension % width == 0)
    index = faiss.index_factory(
        dimension, f"IDMap,IVF{lists},PQ{codes}x4fs,Refine(SQ8)", faiss.METRIC_INNER_PRODUCT
    )
    coarse = faiss.extract_index_ivf(index)
    coarse.cp.niter = _TRAINING_ROUNDS
    coarse.by_residual = True  # else experts of one topic, whose vectors are nearly equal, have equal codes
    index.train(sample)
    return index


def search(index: Any, lists: int, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the inner products and ids [q, count] of the nearest vectors of `lists` lists; id −1: there is none."""
    import faiss

    visited = faiss.SearchParametersIVF(nprobe=lists)  # type: ignore[call-arg]
    if isinstance(index, faiss.IndexIVF):  # written before the codes were of two kinds
        found = index.search(queries, count, params=visited)
    else:
        both = faiss.IndexRefineSearchParameters(k_factor=WIDER, base_index_params=visited)  # type: ignore[call-arg]
        found = index.search(queries, count, params=both)
    scores, ids = found
    return scores, ids


class Trial:
    """Queries with the vectors that are truly nearest to them, to measure the recall of an index."""

    def __init__(self, sample: np.ndarray) -> None:
        """Draw queries [q, m] near vectors [s, m]."""
        numbers = np.random.default_rng(0)
        some = sample[numbers.integers(len(sample), size=_TRIALS)]
        length = np.linalg.norm(some, axis=1, keepdims=True)
        noise = numbers.standard_normal(some.shape) * length * _TRIAL_NOISE / np.sqrt(some.shape[1])
        self.queries = (some + noise).astype(np.float32)
        self._scores = np.zeros((_TRIALS, 0), dtype=np.float32)
        self._ids = np.zeros((_TRIALS, 0), dtype=np.int64)

    def see(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Compare all queries with vectors [k, m] of ids [k]."""
        scores = np.concatenate([self._scores, self.queries @ vectors.T], axis=1)
        every = np.concatenate([self._ids, np.tile(ids, (_TRIALS, 1))], axis=1)
        best = np.argpartition(-scores, min(_TRIAL_RESULTS, scores.shape[1]) - 1)[:, :_TRIAL_RESULTS]
        self._scores = np.take_along_axis(scores, best, axis=1)
        self._ids = np.take_along_axis(every, best, axis=1)

    def tuned(self, index: Any, most: int) -> tuple[int, float]:
        """Return the least power of two of lists, up to `most`, that reaches RECALL, and the recall."""
        exact = [set(ids) for ids in self._ids.tolist()]
        lists = 1
        while True:
            found = search(index, lists, self.queries, _TRIAL_VECTORS)[1][:, :LEAST_CANDIDATES]
            hits = sum(len(right & set(ids)) for right, ids in zip(exact, found.tolist(), strict=True))
            recall = hits / sum(map(len, exact))  # an expert with several vectors counts once
            if recall >= RECALL or lists >= most:
                return lists, recall
            lists *= 2
