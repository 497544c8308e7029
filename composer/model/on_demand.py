"""Layers whose weights are computed when they run, so that a model of any size opens at once and in bounded memory.

A layer has a `source` (composer/tensors/weights.py) in place of its parameter. At its first run it computes the whole
weight and keeps it, if there is room (composer/resources.py). Else it computes the rows in pieces in every run.
The layer's class, and so its family's own code, stays.

Shape suffixes: X inputs, V rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from composer import resources
from composer.model.routed import LowRank
from composer.tensors.weights import Stored, Weight, stored


class OnDemand:
    """A layer that has a source in place of its weight."""

    source: Weight
    computes: torch.dtype
    kept: torch.Tensor | None
    has_room: bool | None  # None until it asked for room

    @property
    def weight(self) -> torch.Tensor:
        """The whole weight, computed now, in the main memory."""
        return self.source.value(self.computes)

    def keep(self, device: torch.device) -> torch.Tensor | None:
        """Return the whole weight on a device if there is room for it, else None."""
        if self.has_room is None:
            nbytes = self.source.shape.numel() * self.computes.itemsize
            self.has_room = resources.keep(self, nbytes, device)
        if self.has_room and self.kept is None:
            self.kept = self.source.value(self.computes).to(device)
        return self.kept

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Return x Wᵀ."""
        weight = self.keep(x.device)
        if weight is not None:
            return nn.functional.linear(x, weight)
        y: torch.Tensor = _Product.apply(x, self.source)
        return y


class _Product(torch.autograd.Function):
    """x Wᵀ in pieces. The backward pass computes the weight again, so no piece of it is kept until then."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, source: Weight) -> torch.Tensor:
        ctx.source = source
        y = x.new_empty(*x.shape[:-1], source.shape[0])
        for piece in source.pieces():
            y[..., piece] = source.product(x, piece)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        to_x = grad.new_zeros(*grad.shape[:-1], ctx.source.shape[1])
        for piece in ctx.source.pieces():
            to_x += grad[..., piece] @ ctx.source.rows(piece, grad.dtype).to(grad.device)
        return to_x, None


class OnDemandLinear(OnDemand, nn.Linear):  # type: ignore[override]
    """A linear layer with a source."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(x)
        return y if self.bias is None else y + self.bias


class OnDemandEmbedding(OnDemand, nn.Embedding):  # type: ignore[override]
    """An embedding with a source; it computes the rows of the tokens that occur."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows_V, places_X = input.unique(return_inverse=True)
        return self.source.rows(rows_V.cpu(), self.computes).to(input.device)[places_X]


_BASES: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: OnDemandLinear, nn.Embedding: OnDemandEmbedding}


class OnDemandLowRank(LowRank):
    """A low-rank difference with sources. Its matrices are small next to their layer's, so none is kept."""

    sources: dict[str, Weight]  # by name of the parameter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in ("lora_A", "lora_B"):
            source = self.sources.get(name)
            x = nn.functional.linear(x, getattr(self, name)) if source is None else source.product(x, ...)
        return x


def weight_of(layer: Any) -> Weight:
    """Return the weight of a linear layer or an embedding, computed on demand or not."""
    return layer.source if isinstance(layer, OnDemand) else Stored(layer.weight.detach())


def is_shared(first: Any, second: Any) -> bool:
    """Return whether two layers have one weight, as tied embeddings and head do."""
    if isinstance(first, OnDemand) and isinstance(second, OnDemand):
        return first.source is second.source
    return first.weight is second.weight


def replace_weight(layer: Any, value: torch.Tensor) -> None:
    """Replace the weight of a layer. The old one is not written to, because it may be mapped from a blob."""
    if isinstance(layer, OnDemand):
        layer.source, layer.kept = Stored(value), None
    else:
        layer.weight.data = value.to(layer.weight).contiguous()


def replace_weights(model: Any, values: Mapping[str, torch.Tensor]) -> None:
    """Replace weights and buffers by name, also those of tied layers."""
    layers = {f"{n}.weight": layer for n, layer in model.named_modules() if isinstance(layer, OnDemand)}
    for name in layers.keys() & values.keys():
        old, new = layers[name].source, Stored(values[name])
        for layer in layers.values():
            if layer.source is old:  # tied layers have one source
                layer.source, layer.kept = new, None
    others = {name: value for name, value in values.items() if name not in layers}
    model.load_state_dict(others, strict=False, assign=True)
    tied = getattr(model, "all_tied_weights_keys", {})
    if others.keys() & {*tied, *tied.values()}:  # transformers ties parameters only
        model.tie_weights()


def weights_of(model: nn.Module) -> dict[str, Weight]:
    """Return all tensors of a model by name, those computed on demand too."""
    computed: dict[str, Weight] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, OnDemand):
            computed[f"{name}.weight"] = layer.source
        elif isinstance(layer, OnDemandLowRank):
            computed |= {f"{name}.{matrix}": source for matrix, source in layer.sources.items()}
    return {**stored(model.state_dict()), **computed}


def can_compute(model: nn.Module, name: str) -> bool:
    """Return whether the parameter is of a layer that can compute it on demand."""
    owner, _, attribute = name.rpartition(".")
    layer = model.get_submodule(owner)
    return isinstance(layer, LowRank) or (attribute == "weight" and _base(type(layer)) is not None)


def compute_on_demand(model: nn.Module, name: str, source: Weight, dtype: torch.dtype) -> None:
    """Replace the parameter of that name by its source."""
    owner, _, attribute = name.rpartition(".")
    layer: Any = model.get_submodule(owner)
    if attribute in layer._parameters:
        delattr(layer, attribute)
    kind: type[nn.Module] = type(layer)
    if issubclass(kind, LowRank):
        if kind is LowRank:
            layer.__class__, layer.sources = OnDemandLowRank, {}
        layer.sources[attribute] = source
        return
    layer.__class__ = _derived(kind)
    layer.source, layer.computes, layer.kept, layer.has_room = source, dtype, None, None


def _base(kind: type[nn.Module]) -> type[nn.Module] | None:
    return next((on_demand for plain, on_demand in _BASES.items() if issubclass(kind, plain)), None)


def _derived(kind: type[nn.Module]) -> type[nn.Module]:
    """The class with the source's forward function where the class calls that of nn.Linear or nn.Embedding."""
    base = _base(kind)
    assert base is not None
    return base if kind in _BASES else type(f"OnDemand{kind.__name__}", (kind, base), {})
