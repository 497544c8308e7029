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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from composer.mix.domains import Domain
from composer.model.modeling import NexusForCausalLM
from composer.model.on_demand import is_shared, replace_weight, weight_of
from composer.processes import Team, current
from composer.progress import Progress, measured, silent
from composer.tensors.spill import Spill
from composer.training.data import token_ids
from composer.training.warm_start.states import CHUNK_TOKENS
from registry.home import Registry

CHUNKS = 16
COUNTED_CHARS = 500_000
RIDGE = 1e-4
EPSILON = 1e-5


@dataclass(frozen=True)
class Source:
    """A model whose trunk goes into the fit: a dense expert with its domain, or a mix with all of its domains.

    `weight`: number of experts that the model counts for. `open` returns a causal LM, whose MLPs are not fitted.
    `opening`: a picklable function that does so in another process of the team; without it, nothing is shared.
    """

    open: Callable[[], Any]
    domains: Sequence[Domain]
    weight: float = 1.0
    opening: Callable[[Registry], Any] | None = None

    @property
    def has_text(self) -> bool:
        """Whether there is text to compute its inputs from."""
        return any(domain.has_text for domain in self.domains)


class Row(NamedTuple):
    """Token ids to pass forward, and the weight of each of their states."""

    ids: list[int]
    share: float


class Sums:
    """Running sums over the sources. They are as large as the trunk, for any number of sources."""

    def __init__(self, spill: Spill) -> None:
        self.spill = spill
        self.weight = 0.0
        self.grams: dict[str, torch.Tensor] = {}  # Σ G_i [I, I]
        self.targets: dict[str, torch.Tensor] = {}  # Σ W_i G_i [O, I]
        self.counts_V: torch.Tensor | None = None
        self.rows: dict[str, torch.Tensor] = {}  # Σ n_i E_i

    def add(
        self, model: Any, grams: Callable[[str], torch.Tensor], counts_V: torch.Tensor, weight: float
    ) -> None:
        """Add a source with the given input statistics per token."""
        for name, module in linear_layers(model).items():
            gram_II = grams(name) * weight
            weight_OI = weight_of(module).value(torch.float32).cpu()
            self._sum(self.targets, name, weight_OI.shape).add_(weight_OI @ gram_II)
            self._sum(self.grams, name, gram_II.shape).add_(gram_II)
        for name, layer in token_layers(model).items():
            weights_VI = weight_of(layer)
            rows_VI = self._sum(self.rows, name, weights_VI.shape)
            for piece in weights_VI.pieces():
                rows = weights_VI.rows(piece, torch.float32).cpu()
                rows_VI[piece] += rows * (weight * counts_V[piece])[:, None]
        self.counts_V = weight * counts_V + (0 if self.counts_V is None else self.counts_V)
        self.weight += weight

    def _sum(self, sums: dict[str, torch.Tensor], name: str, shape: torch.Size) -> torch.Tensor:
        if name not in sums:
            sums[name] = self.spill.zeros(*shape)
        return sums[name]

    def average(self, name: str) -> torch.Tensor:
        """Return a layer's input statistics per token, averaged over the sources."""
        return self.grams[name] / self.weight

    @property
    def average_counts_V(self) -> torch.Tensor:
        """The token frequencies, averaged over the sources."""
        assert self.counts_V is not None
        return self.counts_V / self.weight


@torch.no_grad()
def fit_trunk(
    model: NexusForCausalLM,
    tokenizer: Any,
    sources: Sequence[Source],
    *,
    random_seed: int,
    folder: Path,
    progress: Progress = silent,
) -> int:
    """Replace the merged trunk of `model` by the closed forms, and return the number of tokens passed forward.

    Does nothing if no source has text. Sums without room in memory are in files of `folder` until the end.
    """
    spill = Spill(folder)
    sums, grams, tokens = Sums(spill), Grams(spill), 0
    generator = torch.Generator().manual_seed(random_seed)
    # Sources without text come last, because they use the average of the others.
    ordered = sorted(sources, key=lambda source: not source.has_text)
    for done, source in enumerate(ordered):
        if not ordered[0].has_text:
            return 0
        opened = source.open()
        if source.has_text:
            tokens += grams.measure(opened, tokenizer, source, generator)
            counts_V = _frequencies(tokenizer, source.domains, opened.config.get_text_config().vocab_size)
            sums.add(opened, grams.found.__getitem__, counts_V, source.weight)
        else:
            sums.add(opened, sums.average, sums.average_counts_V, source.weight)
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
    if layers["head"] is None or is_shared(layers["head"], layers["embeddings"]):
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
        target_OI = sums.targets[name].double() + ridge * module.weight.cpu().double()
        replace_weight(module, sums.targets[name].copy_(torch.cholesky_solve(target_OI.T, factor).T))
    counts_V1 = sums.average_counts_V[:, None]
    layers = token_layers(model)
    for name, layer in layers.items():
        merged_VI, rows_VI = weight_of(layer), sums.rows[name]
        for piece in merged_VI.pieces():
            rows = rows_VI[piece] / sums.weight + EPSILON * merged_VI.rows(piece, torch.float32).cpu()
            rows_VI[piece] = rows / (counts_V1[piece] + EPSILON)
        replace_weight(layer, rows_VI)
        if "head" not in layers:  # it is tied
            replace_weight(model.get_output_embeddings(), rows_VI)


class Grams:
    """Input statistics G of one source after another; the memory of the first is used again."""

    def __init__(self, spill: Spill) -> None:
        self.spill = spill
        self.share = 1.0  # of the row that passes forward
        self.found: dict[str, torch.Tensor] = {}

    def measure(self, model: Any, tokenizer: Any, source: Source, generator: torch.Generator) -> int:
        """Compute G per token of every linear layer, with equal weight per domain. Return the number of tokens.

        The processes of the team share the rows. Raises ProcessLostError.
        """
        for gram_II in self.found.values():
            gram_II.zero_()
        rows = [row for row in _rows(tokenizer, source.domains, generator) if row.ids]
        team = current()
        if team.size == 1 or source.opening is None:
            self.pass_forward(model, rows)
        else:
            team.share(_share_grams, source.opening, rows, self.spill.folder, own=(self, model))
        return sum(len(row.ids) for row in rows)

    def pass_forward(self, model: Any, rows: Sequence[Row]) -> None:
        """Pass some rows forward and add their XᵀX of every linear layer, times the share of each row."""
        with self._gathering(model):
            for row in rows:
                self.share = row.share
                ids = torch.tensor([row.ids], device=model.device)
                model(input_ids=ids, use_cache=False, logits_to_keep=1)

    def gram(self, name: str, width: int) -> torch.Tensor:
        """Return the sum of a layer with so many inputs; zero if nothing has passed."""
        if name not in self.found:
            self.found[name] = self.spill.zeros(width, width)
        return self.found[name]

    @contextmanager
    def _gathering(self, model: Any) -> Iterator[None]:
        """Add share · XᵀX of every linear layer in the forward passes inside the `with` block."""

        def keep(name: str) -> Any:
            def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
                x = args[0].reshape(-1, args[0].shape[-1]).float()
                self.gram(name, x.shape[1]).add_((x.T @ x).cpu(), alpha=self.share)

            return hook

        layers = linear_layers(model).items()
        handles = [layer.register_forward_pre_hook(keep(name)) for name, layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@torch.no_grad()
def _share_grams(
    team: Team, opening: Callable[[Registry], Any], rows: Sequence[Row], folder: Path, own: Any = None
) -> None:
    """Pass this process's rows forward, and sum G over the processes. `own`: the leader's sums and model."""
    assert team.registry is not None
    grams, model = own or (Grams(Spill(folder)), opening(team.registry))
    grams.pass_forward(model, rows[team.rank :: team.size])
    for name, layer in linear_layers(model).items():
        gram_II = grams.gram(name, layer.in_features)
        gram_II.copy_(team.total(gram_II))


def _rows(tokenizer: Any, domains: Sequence[Domain], generator: torch.Generator) -> Iterator[Row]:
    """Yield rows of each domain's text. The shares of a domain's tokens add up to those of any other."""
    texts = [domain.chunks() for domain in domains if domain.has_text]
    for chunks in texts:
        picked = torch.randperm(len(chunks), generator=generator)[:CHUNKS].tolist()
        rows = tokenizer(
            [chunks[i] for i in picked],
            add_special_tokens=False,
            truncation=True,
            max_length=CHUNK_TOKENS,
        )["input_ids"]
        length = sum(map(len, rows))
        yield from (Row(row, 1 / (length * len(texts))) for row in rows)


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
