"""Trunk fit in closed form, from forward passes of the dense experts over their own text, without gradient steps.

If experts trained their trunks, averaging these costs a mix more quality than wrong routing does. Least squares gives
the linear layer that is closest to every expert i on its own inputs X_i (RegMean, arXiv 2212.09849). With
G_i = X_iᵀ X_i per token,

    W = (Σ_i W_i G_i + λ W̄) (Σ_i G_i + λ I)⁻¹

For row t of the embeddings and of the head, with n_i(t) the frequency of token t in expert i's text,

    E[t] = (Σ_i n_i(t) E_i[t] + ε Ē[t]) / (Σ_i n_i(t) + ε)

W̄ and Ē come from the trunk merge, and so do all other tensors (norms, biases), which stay unchanged. For an expert
without text, G_i and n_i are the averages over the other experts.

Shape suffixes: V vocabulary, I inputs and O outputs of a linear layer, S tokens of a chunk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from composer.mix.domains import Domain
from composer.model.modeling import NexusForCausalLM
from composer.progress import Progress, measured, silent
from composer.training.data import token_ids
from composer.training.warm_start.states import CHUNK_TOKENS

CHUNKS = 16
COUNTED_CHARS = 500_000
RIDGE = 1e-4
EPSILON = 1e-5


@dataclass(frozen=True)
class Source:
    """A model whose trunk goes into the fit: a dense expert with its domain, or a mix with all of its domains.

    `weight`: number of experts that the model counts for. `open` returns a causal LM, whose MLPs are not fitted.
    """

    open: Callable[[], Any]
    domains: Sequence[Domain]
    weight: float = 1.0

    @property
    def has_text(self) -> bool:
        """Whether there is text to compute its inputs from."""
        return any(domain.has_text for domain in self.domains)


@dataclass
class Sums:
    """Running sums over the sources. Memory depends on the trunk's size, not on the number of sources."""

    weight: float = 0.0
    grams: dict[str, torch.Tensor] = field(default_factory=dict)  # Σ G_i [I, I]
    targets: dict[str, torch.Tensor] = field(default_factory=dict)  # Σ W_i G_i [O, I]
    counts_V: torch.Tensor | None = None
    rows: dict[str, torch.Tensor] = field(default_factory=dict)  # Σ n_i E_i

    def add(self, model: Any, grams: dict[str, torch.Tensor], counts_V: torch.Tensor, weight: float) -> None:
        """Add a source with the given input statistics per token."""
        for name, module in linear_layers(model).items():
            gram_II = grams[name] * weight
            self.grams[name] = self.grams.get(name, 0) + gram_II
            self.targets[name] = self.targets.get(name, 0) + module.weight.float() @ gram_II
        for name, layer in token_layers(model).items():
            rows = layer.weight.float() * (weight * counts_V)[:, None]
            self.rows[name] = self.rows.get(name, 0) + rows
        self.counts_V = weight * counts_V + (0 if self.counts_V is None else self.counts_V)
        self.weight += weight

    def average(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return the input statistics per token, averaged over the sources."""
        assert self.counts_V is not None
        return {name: gram / self.weight for name, gram in self.grams.items()}, self.counts_V / self.weight


@torch.no_grad()
def fit_trunk(
    model: NexusForCausalLM,
    tokenizer: Any,
    sources: Sequence[Source],
    *,
    random_seed: int,
    progress: Progress = silent,
) -> int:
    """Replace the merged trunk of `model` by the closed forms, and return the number of tokens passed forward.

    Does nothing if no source has text.
    """
    sums, tokens = Sums(), 0
    generator = torch.Generator().manual_seed(random_seed)
    # Sources without text come last, because they use the average of the others.
    ordered = sorted(sources, key=lambda source: not source.has_text)
    for done, source in enumerate(ordered):
        if not ordered[0].has_text:
            return 0
        opened = source.open()
        if source.has_text:
            grams, passed = _grams(opened, tokenizer, source.domains, generator)
            counts_V = _frequencies(tokenizer, source.domains, opened.config.get_text_config().vocab_size)
            tokens += passed
        else:
            grams, counts_V = sums.average()
        sums.add(opened, grams, counts_V, source.weight)
        progress("fitting the trunk", done + 1, len(sources))
    began = time.process_time()
    _put(model, sums)
    measured("solving seconds", 0, time.process_time() - began)
    return tokens


def linear_layers(model: Any) -> dict[str, nn.Linear]:
    """Return the trunk's linear layers, except the head, by their names in a dense model."""
    head = model.get_output_embeddings()
    return {
        _plain(name): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and ".mlp." not in name
    }


def token_layers(model: Any) -> dict[str, Any]:
    """Return the embeddings and the head, whose rows are tokens. Without a separate head, only the embeddings."""
    layers = {"embeddings": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    if layers["head"] is None or layers["head"].weight is layers["embeddings"].weight:
        del layers["head"]
    return layers


def _plain(name: str) -> str:
    return name.removeprefix("language_model.")


def _put(model: NexusForCausalLM, sums: Sums) -> None:
    """Solve every layer, one after the other."""
    for name, module in linear_layers(model).items():
        gram_II = sums.grams[name].double()
        ridge = RIDGE * gram_II.diagonal().mean()
        factor = torch.linalg.cholesky(gram_II + ridge * torch.eye(len(gram_II), dtype=gram_II.dtype))
        target_OI = sums.targets[name].double() + ridge * module.weight.double().cpu()
        _replace(module, torch.cholesky_solve(target_OI.T, factor).T)
    assert sums.counts_V is not None
    counts_V1 = sums.counts_V[:, None] / sums.weight
    for name, layer in token_layers(model).items():
        rows = sums.rows[name] / sums.weight
        _replace(layer, (rows + EPSILON * layer.weight.float().cpu()) / (counts_V1 + EPSILON))


def _replace(module: Any, value: torch.Tensor) -> None:
    """Replace the weight's data. Tied layers keep sharing the parameter.

    It is not written in place, because the old data may be memory-mapped from a blob.
    """
    module.weight.data = value.to(module.weight).contiguous()


def _grams(
    model: Any, tokenizer: Any, domains: Sequence[Domain], generator: torch.Generator
) -> tuple[dict[str, torch.Tensor], int]:
    """Compute G per token for every linear layer, with equal weight per domain, and the number of tokens used."""
    total: dict[str, torch.Tensor] = {}
    tokens = 0
    texts = [domain.chunks() for domain in domains if domain.has_text]
    for chunks in texts:
        picked = torch.randperm(len(chunks), generator=generator)[:CHUNKS].tolist()
        rows = tokenizer(
            [chunks[i] for i in picked], add_special_tokens=False, truncation=True, max_length=CHUNK_TOKENS
        )["input_ids"]
        with _gathered(model) as grams:
            for row in filter(None, rows):
                model(input_ids=torch.tensor([row], device=model.device), use_cache=False, logits_to_keep=1)
        length = sum(map(len, rows))
        tokens += length
        for name, gram_II in grams.items():
            total[name] = total.get(name, 0) + gram_II / (length * len(texts))
    return total, tokens


@contextmanager
def _gathered(model: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Collect XᵀX of every linear layer over the forward passes inside the `with` block."""
    grams: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            x = args[0].reshape(-1, args[0].shape[-1]).float()
            grams[name] = grams.get(name, 0) + (x.T @ x).cpu()

        return hook

    handles = [layer.register_forward_pre_hook(keep(name)) for name, layer in linear_layers(model).items()]
    try:
        yield grams
    finally:
        for handle in handles:
            handle.remove()


def _frequencies(tokenizer: Any, domains: Sequence[Domain], vocabulary: int) -> torch.Tensor:
    """Compute the frequency of each token in the domains' text [V], with equal weight per domain; the sum is 1."""
    counted = []
    for domain in domains:
        if not domain.has_text:
            continue
        counts_V = torch.zeros(vocabulary)
        for ids in token_ids(tokenizer, domain.documents, COUNTED_CHARS):
            counts_V += torch.bincount(ids, minlength=vocabulary)
        counted.append(counts_V / counts_V.sum().clamp(min=1))
    return torch.stack(counted).mean(dim=0)
