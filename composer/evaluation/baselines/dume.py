"""DUME (arXiv 2603.29765): experts' FFNs over their mean trunk, with closed-form linear gates and no shared expert.

Text of every domain passes forward with its own expert forced. In each block, x is an input state with a constant 1
appended, and y is the one-hot index of the token's domain. Ridge regression over all tokens gives the block's gate:

    W = (Σ x xᵀ + λ I)⁻¹ Σ x yᵀ,  then each expert's column, with its bias, is divided by the norm of the column

A token goes to the expert with the highest score, with weight 1. An expert is appended by adding its sums.

Shape suffixes: R rows, S tokens per row, T tokens, H model width, N experts, F = H + 1 features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from composer.composition import assemble
from composer.errors import RecipeError
from composer.gathering import resolve
from composer.mix.opening import OpenMix, open_mix
from composer.mix.recipe import Recipe, Training
from composer.model.modeling import NexusForCausalLM, forced
from composer.model.selection import Routing
from composer.trunks.mean import Mean
from registry.home import Registry

RIDGE = 1e-2
BATCH_ROWS = 8


@dataclass(frozen=True)
class Sums:
    """Sums from which one block's gate is solved: Σ x xᵀ [F, F] and Σ x yᵀ [F, N], in double precision."""

    second_FF: torch.Tensor
    own_FN: torch.Tensor

    def __add__(self, other: Sums) -> Sums:
        """Return the sums over the text of both."""
        return Sums(self.second_FF + other.second_FF, self.own_FN + other.own_FN)


@dataclass(frozen=True)
class Gate:
    """A block's linear gate: scores are x Wᵀ + bias."""

    weight_NH: torch.Tensor
    bias_N: torch.Tensor


def open_untrained(
    registry: Registry, seed: str, experts: Sequence[str], *, trainable: bool = False
) -> OpenMix:
    """Open the experts over the mean of their trunks, before gates are solved.

    Raises the errors of `resolve` and `assemble`.
    """
    recipe = Recipe(
        name="dume",
        seed=seed,
        experts=list(experts),
        router="linear",
        trunk_merge=Mean(),
        training=Training(warm_start=False, tokens=0),
    )
    return open_mix(registry, assemble(registry, resolve(registry, recipe))[0], trainable=trainable)


@torch.inference_mode()
def collect(model: NexusForCausalLM, rows: Mapping[int, torch.Tensor]) -> list[Sums]:
    """Return the sums of every block over `rows`, which are text [R, S] by the index of the domain's expert.

    Raises RecipeError for an additive mix, which would use its shared expert in addition to a gate of weight 1.
    """
    _require_convex(model)
    n = len(model.config.experts)
    found: dict[int, Sums] = {}

    def observe(layer: int, place: int, module: nn.Module, arguments: tuple[torch.Tensor]) -> None:
        x_TH = arguments[0].flatten(0, -2).cpu().double()
        x_TF = F.pad(x_TH, (0, 1), value=1.0)
        own_FN = torch.zeros(x_TF.shape[1], n, dtype=x_TF.dtype)
        own_FN[:, place] = x_TF.sum(dim=0)
        sums = Sums(x_TF.T @ x_TF, own_FN)
        found[layer] = found[layer] + sums if layer in found else sums

    for place, rows_RS in rows.items():
        with ExitStack() as hooks:
            for layer, mixture in enumerate(model.mixtures()):
                hook = mixture.register_forward_pre_hook(partial(observe, layer, place))
                hooks.callback(hook.remove)
            with forced(model, place):
                for batch_RS in rows_RS.split(BATCH_ROWS):
                    model(input_ids=batch_RS.to(model.device), use_cache=False, logits_to_keep=1)
    return [found[layer] for layer in range(len(model.mixtures()))]


def solve(sums: Sums, ridge: float = RIDGE) -> Gate:
    """Solve the gate of one block."""
    regular_FF = sums.second_FF + ridge * torch.eye(len(sums.second_FF), dtype=sums.second_FF.dtype)
    solved_FN = torch.cholesky_solve(sums.own_FN, torch.linalg.cholesky(regular_FF))
    length_N = solved_FN[:-1].norm(dim=0).clamp(min=1e-6)
    scaled_FN = (solved_FN / length_N).float()
    return Gate(scaled_FN[:-1].T.contiguous(), scaled_FN[-1])


@contextmanager
def routed(model: NexusForCausalLM, gates: Sequence[Gate]) -> Iterator[NexusForCausalLM]:
    """Replace the mix's routers with these gates inside the block; each token's expert has weight 1.

    Raises RecipeError for an additive mix.
    """
    try:
        set_gates(model, gates)
        yield model
    finally:
        for mixture in model.mixtures():
            mixture.__dict__.pop("route", None)


def set_gates(model: NexusForCausalLM, gates: Sequence[Gate]) -> None:
    """Replace the mix's routers with these gates. Raises RecipeError for an additive mix."""
    _require_convex(model)
    for mixture, gate in zip(model.mixtures(), gates, strict=True):
        mixture.route = _route(gate)


def _route(gate: Gate) -> Callable[[torch.Tensor], Routing]:
    def route(x_TH: torch.Tensor) -> Routing:
        logits_TN = F.linear(x_TH.float(), gate.weight_NH.to(x_TH.device), gate.bias_N.to(x_TH.device))
        chosen_T1 = logits_TN.argmax(dim=-1, keepdim=True)
        return Routing(logits_TN.softmax(dim=-1), chosen_T1, torch.ones_like(logits_TN[:, :1]), logits_TN)

    return route


def _require_convex(model: NexusForCausalLM) -> None:
    if not all(mixture.convex for mixture in model.mixtures()):
        raise RecipeError(
            "DUME needs a convex mix, in which a gate of weight 1 removes the shared expert, but this mix is additive: "
            "compose it with combine: convex"
        )
