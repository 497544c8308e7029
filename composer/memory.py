"""The memory that composing needs, by a formula. docs/SCALE.md explains it; mapped files do not count.

    peak = BASE + the largest of the steps
    step = weights that are computed and kept, at most half of the limit
         + pieces of the weight that is being computed
         + activations of the tokens that pass forward together, and their logits
    fine-tune = frozen weights in float32 + 16 bytes per trained weight (with gradient and two moments) + activations;
                with low-rank differences, frozen weights are computed like the weights of a step

Several processes share the activations of a fine-tune, and the trained weights if these do not fit (sharding.py).

Shape suffixes are those of the model: H width, F FFN width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from composer import resources
from registry.checkpoints.tensors import DTYPE_BYTES
from registry.records import SeedRecord

BASE = 270 * 2**20  # Python, torch and transformers
ALLOCATOR = 1.1  # it keeps some of the memory between weights that stay
FLOAT = 4
# Numbers per token that a forward pass needs at its widest: multiples of the width, and of the FFN width.
WIDTHS, FFN_WIDTHS = 8, 3
# In training, those are kept for every layer, until the backward pass has used them.
TRAINED_WIDTHS, TRAINED_FFN_WIDTHS = 16, 4
MOMENTS = {"adamw": 2 * FLOAT, "adafactor": 0, "adamw_8bit": 2}  # bytes of a trained weight's
LOGITS = 3  # copies of the logits in training: the scores, their log-softmax and its gradient
PIECE = 2**24 * FLOAT  # as in composer/tensors/weights.py, which imports torch
PIECES = 3  # of a blend: both ends and the result
SCORED = (8, 256)  # rows and tokens of a batch that is scored (bits_per_byte.py, strengths.py)
MOST_LOGITS = 2**28  # numbers, as in bits_per_byte.py
CHUNKS, CHUNK, AT_ONCE = 32, 256, 8192  # of each domain in a warm start; tokens in the FFNs (states.py)


@dataclass(frozen=True)
class Model:
    """Sizes of a seed. `trunk` and `ffns` are numbers of weights; `stored` is the bytes of one."""

    layers: int
    hidden: int
    ffn: int
    vocabulary: int
    trunk: int
    ffns: Sequence[int]
    stored: int

    @classmethod
    def of(cls, seed: SeedRecord, trunk: int, ffns: Sequence[int]) -> Self:
        """Return the sizes of a registered seed with these FFNs: its own first, then the experts'."""
        config = seed.config
        return cls(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            ffn=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            trunk=trunk,
            ffns=ffns,
            stored=DTYPE_BYTES[seed.dtype],
        )

    def pieces(self) -> int:
        """Bytes of the pieces of the largest weight."""
        return PIECES * min(PIECE, FLOAT * self.hidden * max(self.vocabulary, self.ffn))

    def activations(self, tokens: int) -> int:
        """Bytes of the widest layer's activations in a forward pass of so many tokens."""
        return FLOAT * tokens * (WIDTHS * self.hidden + FFN_WIDTHS * self.ffn)

    def training(self, tokens: int) -> int:
        """Bytes of all activations that a backward pass needs, with the logits."""
        per_layer = TRAINED_WIDTHS * self.hidden + TRAINED_FFN_WIDTHS * self.ffn
        return FLOAT * tokens * (self.layers * per_layer + LOGITS * self.vocabulary)


def of_whole(model: Model, training: Mapping[str, Any], weights: int, trained: int) -> list[int]:
    """Return the peak of composing whole experts in bytes, of each process.

    `weights` is the number of the mix's weights, `trained` that of the low-rank differences, if there is a fine-tune.
    """
    steps = []
    if training["warm_start"]:  # strengths: one expert between the seed and itself, always in float32
        steps.append(_scored(model, kept=FLOAT * (model.trunk + model.ffns[0])))
    tuning = _low_rank(model, training, weights, trained) if trained else []
    return _of_each(steps, tuning, steps)


def of_merged(model: Model, training: Mapping[str, Any], *, domains: int, low_rank: int = 0) -> list[int]:
    """Return the peak of composing a mix with a merged trunk in bytes, of each process.

    `low_rank` is the number of weights of the differences that the fine-tune trains, if it does not train weights.
    """
    weights = model.trunk + sum(model.ffns)
    steps, shared = [], []
    if training["warm_start"]:
        computed = 0 if model.stored == FLOAT else FLOAT * weights
        sums = 2 * FLOAT * model.trunk  # of the trunk fit; beyond the room they are files
        tokens = domains * CHUNKS * CHUNK
        states = FLOAT * (tokens * WIDTHS * model.hidden + min(tokens, AT_ONCE) * FFN_WIDTHS * model.ffn)
        steps.append(_room(computed + sums) + model.pieces() + states + _solver(model))
        # Others: rows of the trunk fit, with moments as many as the trunk's weights, then a share of the states.
        passing = max(model.activations(CHUNK), states // resources.processes())
        shared.append(_room(computed + FLOAT * model.trunk) + model.pieces() + passing)
    tuning = []
    if low_rank:
        tuning = _low_rank(model, training, weights, low_rank)
    elif training["tokens"]:
        parts = {"router": 0, "trunk": model.trunk, "ffn": sum(model.ffns), "all": weights}
        trained = parts[training["train"]]
        # Weights that are stored in float32 and not trained stay mapped.
        frozen = 0 if model.stored == FLOAT else FLOAT * (weights - trained)
        tuning = _trained(model, training, trained, frozen)
    return _of_each(steps, tuning, shared)


def fits_replicated(weights: int, optimizer: str, processes: int) -> bool:
    """Return whether each process of this machine can have all of so many trained weights (sharding.py)."""
    limit = resources.limit() or resources.available()
    return processes * _per_weight(optimizer) * weights <= resources.SHARE_FOR_WEIGHTS * limit


def _of_each(steps: Sequence[int], tuning: Sequence[int], shared: Sequence[int]) -> list[int]:
    """Return the peak of each process: the first one runs all steps, the others the `shared` ones and the fine-tune."""
    first, *others = tuning or [0] * resources.processes()
    return [BASE + max(*steps, first, 0), *(BASE + max(*shared, each, 0) for each in others)]


def _scored(model: Model, *, kept: int) -> int:
    rows, length = SCORED
    rows = max(1, min(rows, MOST_LOGITS // (length * model.vocabulary)))
    logits = FLOAT * (rows + 2) * length * model.vocabulary  # and one window's in the loss
    return _room(kept) + model.pieces() + max(model.activations(rows * length), logits)


def _room(nbytes: int) -> int:
    """Return the bytes of computed weights that one process keeps.

    It is at most its share of half of the limit, or of the available memory.
    """
    limit = resources.limit() or resources.available()
    return int(ALLOCATOR * min(nbytes, resources.SHARE_FOR_WEIGHTS * limit / resources.processes()))


def _solver(model: Model) -> int:
    """Bytes of the moments of one layer and their factor: float32, and float64 twice."""
    return 5 * FLOAT * model.hidden**2


def _low_rank(model: Model, training: Mapping[str, Any], weights: int, trained: int) -> list[int]:
    """Bytes of a fine-tune of low-rank differences, in each process; the other weights are mapped or computed."""
    computed = 0 if model.stored == FLOAT else FLOAT * weights
    return _trained(model, training, trained, _room(computed) + (model.pieces() if computed else 0))


def _trained(model: Model, training: Mapping[str, Any], trained: int, frozen: int) -> list[int]:
    """Bytes of a fine-tune in each process.

    They are those of the frozen weights, of the trained ones in float32 with gradients and moments, and of the
    activations of the process's share of a micro-batch.
    """
    count, optimizer = resources.processes(), training.get("optimizer", "adamw")
    activations = model.training(training["batch_tokens"] // training["micro_batches"] // count)
    if count == 1 or fits_replicated(trained, optimizer, count):
        return [frozen + _per_weight(optimizer) * trained + activations] * count
    root = min(trained, model.vocabulary * model.hidden)  # it is gathered until the end of the step
    gathered = 2 * FLOAT * (root + (trained - root) // model.layers)
    each = frozen + _per_weight(optimizer) * trained // count + gathered + activations
    return [each + frozen + FLOAT * trained, *[each] * (count - 1)]  # the first one has the mix itself, too


def _per_weight(optimizer: str) -> int:
    """Bytes of a trained weight with its gradient and its moments."""
    return 2 * FLOAT + MOMENTS[optimizer]
