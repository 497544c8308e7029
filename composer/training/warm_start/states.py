"""Router inputs: the MLP inputs of every block, collected block by block in one forward pass.

A router with context also reads running means of directions (composer/model/prefix.py). These are solved first, from
the inputs of the block's attention.

Passing each domain's text through its own expert would mark every state after the first block with that expert. A
router fitted to such states separates the domains almost perfectly. But when it routes by itself, it only repeats the
first block's choice. So a block's router is solved when the pass reaches the block, from states that the solved
routers below have produced. The pass then continues through the experts that this router chooses.

Shape suffixes: R rows, S tokens of a row, V tokens of all rows, X sampled states, C chunks (one per row), H width of
a state (the model's, and the context's F features if the router reads them), M domain-embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from composer.mix.domains import Domain
from composer.model.modeling import NexusForCausalLM, NexusMLP
from composer.model.prefix import attention_input, attention_of
from composer.progress import Progress, silent
from composer.training.warm_start.kinds import stratified

CHUNK_TOKENS = 256
# Number of states sampled per chunk; not all are needed, since neighbouring states are similar.
SAMPLED_PER_CHUNK = 64
# Number of tokens that pass through a block's experts at once; it bounds the memory of the FFN activations.
TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class Chunks:
    """Rows of text to pass forward.

    ids_RS: token ids, padded on the right. lengths_R: number of tokens. vectors_RM: domain-embedding vectors.
    owner_R: domain indices.
    """

    ids_RS: torch.Tensor
    lengths_R: torch.Tensor
    vectors_RM: torch.Tensor
    owner_R: torch.Tensor

    @property
    def tokens(self) -> int:
        """Number of tokens that pass forward, without padding."""
        return int(self.lengths_R.sum())

    @property
    def mask_RS(self) -> torch.Tensor:
        """Mask of the tokens, which is false at padding."""
        return torch.arange(self.ids_RS.shape[1]) < self.lengths_R[:, None]


@dataclass(frozen=True)
class Observed:
    """Sums over the states x of one block, and a sample of these states.

    second_HH: mean of x xᵀ, with equal weight per domain. sums_CH, counts_C: Σ x and the number of states per chunk.
    vectors_CM, owner_C: embedding vector and domain index per chunk. sample_XH, labels_X: sampled states and their
    domain indices.
    """

    second_HH: torch.Tensor
    sums_CH: torch.Tensor
    counts_C: torch.Tensor
    vectors_CM: torch.Tensor
    owner_C: torch.Tensor
    sample_XH: torch.Tensor
    labels_X: torch.Tensor

    def domain_means(self, n: int) -> torch.Tensor:
        """Return the mean states of domains 0 … n−1 [n, H]; NaN for a domain without text."""
        return torch.stack([self.mean_of(self.owner_C == j) for j in range(n)])

    def mean_of(self, chunks: torch.Tensor) -> torch.Tensor:
        """Return the mean state [H] of some chunks."""
        return self.sums_CH[chunks].sum(dim=0) / self.counts_C[chunks].sum()


def collect(
    tokenizer: Any, domains: Sequence[Domain], counts: Sequence[int], generator: torch.Generator
) -> Chunks:
    """Sample `counts` chunks of each domain with text, stratified by type of text (kinds.py)."""
    ids, vectors, owners = [], [], []
    for j, (domain, count) in enumerate(zip(domains, counts, strict=True)):
        if not domain.has_text:
            continue
        texts = domain.chunks()
        picked = stratified(domain.vectors, count, generator)
        tokenized = tokenizer(
            [texts[i] for i in picked], add_special_tokens=False, truncation=True, max_length=CHUNK_TOKENS
        )["input_ids"]
        rows = [(i, row) for i, row in zip(picked, tokenized, strict=True) if row]
        ids += [torch.tensor(row) for _, row in rows]
        vectors.append(domain.vectors[[i for i, _ in rows]])
        owners += [j] * len(rows)
    # Padding on the right does not affect a causal model's states to the left of it.
    return Chunks(
        torch.nn.utils.rnn.pad_sequence(ids, batch_first=True),
        torch.tensor([len(row) for row in ids]),
        torch.cat(vectors),
        torch.tensor(owners),
    )


@torch.no_grad()
def pass_forward(
    model: NexusForCausalLM,
    chunks: Chunks,
    arrive: Callable[[int, Observed], None],
    generator: torch.Generator,
    progress: Progress = silent,
    *,
    attend: Callable[[int, Observed], None] | None = None,
) -> None:
    """Pass all chunks forward together, and call `arrive(block, observed)` before each block routes them.

    `attend(block, observed)` is called with the inputs of each block's attention.
    """
    mixtures = model.mixtures()
    mask_RS = chunks.mask_RS.to(model.device)
    sampled_V = _sampled(chunks, generator)
    heard: list[Any] = [None] * -(
        -chunks.tokens // TOKENS_AT_ONCE
    )  # states of a recurrent router, one per piece

    def mixture_at(layer: int) -> Callable[[torch.Tensor], torch.Tensor]:
        mixture = mixtures[layer]
        forward = mixture.forward

        def replaced(hidden_states: torch.Tensor) -> torch.Tensor:
            x_VH, context_VF = hidden_states[mask_RS], mixture.router.context
            states = [x_VH.float().cpu()]
            if context_VF is not None:
                context_VF = context_VF.view(*mask_RS.shape, -1)[mask_RS]
                states.append(context_VF.cpu())
            arrive(layer, _observed(torch.cat(states, dim=1), sampled_V, chunks))
            pieces = []
            for place, piece_VH in enumerate(x_VH.split(TOKENS_AT_ONCE)):
                if context_VF is not None:
                    mixture.router.context = context_VF[place * TOKENS_AT_ONCE :][: len(piece_VH)]
                if layer:
                    mixtures[layer - 1].router.state = heard[place]
                pieces.append(forward(piece_VH))
                heard[place] = mixture.router.state
            y_RSH = torch.zeros_like(hidden_states)
            y_RSH[mask_RS] = torch.cat(pieces)
            progress("collecting router inputs", layer + 1, len(mixtures))
            return y_RSH

        return replaced

    def attention_at(layer: int) -> Callable[..., None]:
        def observe(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            assert attend is not None
            u_VH = attention_input(args, kwargs)[mask_RS]
            attend(layer, _observed(u_VH.float().cpu(), sampled_V, chunks))

        return observe

    with _replaced(mixtures, mixture_at), ExitStack() as hooks:
        for layer, block in enumerate(model.blocks() if attend is not None else ()):
            hook = attention_of(block).register_forward_pre_hook(
                attention_at(layer), with_kwargs=True, prepend=True
            )
            hooks.callback(hook.remove)
        model(input_ids=chunks.ids_RS.to(model.device), use_cache=False, logits_to_keep=1)


def _observed(x_VH: torch.Tensor, sampled_V: torch.Tensor, chunks: Chunks) -> Observed:
    """Compute the moments and a sample of the states of all chunks."""
    by_chunk = x_VH.split(chunks.lengths_R.tolist())
    seconds = []
    for j in chunks.owner_R.unique():
        mine_VH = torch.cat([by_chunk[i] for i in (chunks.owner_R == j).nonzero()[:, 0]])
        seconds.append(mine_VH.T @ mine_VH / len(mine_VH))
    return Observed(
        torch.stack(seconds).mean(dim=0),
        torch.stack([x.sum(dim=0) for x in by_chunk]),
        chunks.lengths_R.float(),
        chunks.vectors_RM,
        chunks.owner_R,
        x_VH[sampled_V],
        chunks.owner_R.repeat_interleave(chunks.lengths_R)[sampled_V],
    )


def _sampled(chunks: Chunks, generator: torch.Generator) -> torch.Tensor:
    """Draw the indices in V of the sampled states, which are the same in every block."""
    starts = chunks.lengths_R.cumsum(0) - chunks.lengths_R
    few = [
        start + torch.randperm(length, generator=generator)[:SAMPLED_PER_CHUNK]
        for start, length in zip(starts.tolist(), chunks.lengths_R.tolist(), strict=True)
    ]
    return torch.cat(few)


@contextmanager
def _replaced(
    mixtures: Sequence[NexusMLP], replacement: Callable[[int], Callable[[torch.Tensor], torch.Tensor]]
) -> Iterator[None]:
    """Replace the forward function of every block's mixture inside the `with` block."""
    with ExitStack() as stack:
        for layer, mixture in enumerate(mixtures):
            mixture.forward = replacement(layer)  # type: ignore[method-assign, assignment]
            stack.callback(delattr, mixture, "forward")
        yield
