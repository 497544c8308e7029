"""Router inputs: the MLP inputs of every block, collected block by block in one forward pass.

A router with context also reads running means of directions (composer/model/prefix.py). These are solved first, from
the inputs of the block's attention.

Passing each domain's text through its own expert would mark every state after the first block with that expert. A
router fitted to such states separates the domains almost perfectly. But when it routes by itself, it only repeats the
first block's choice. So a block's router is solved when the pass reaches the block, from states that the solved
routers below have produced. The pass then continues through the experts that this router chooses.

The processes of a team take a part of the rows each, and add up what they observe in every block.

Shape suffixes: R rows, S tokens of a row, V tokens of all rows, O tokens of this process's own rows, X sampled states,
C chunks (one per row), H width of a state (the model's, and the context's F features if the router reads them), M
domain-embedding width.
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
from composer.processes import Team
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

    def mask(self, rows: torch.Tensor) -> torch.Tensor:
        """Mask [own rows, S] of the tokens of some rows, which is false at padding."""
        return torch.arange(self.ids_RS.shape[1]) < self.lengths_R[rows, None]


@dataclass(frozen=True)
class Part:
    """The rows that one process of a team passes forward, and the sampled states among all tokens [X]."""

    chunks: Chunks
    sampled: torch.Tensor
    team: Team

    @property
    def rows(self) -> torch.Tensor:
        """Indices of this process's rows."""
        return torch.arange(self.team.rank, len(self.chunks.lengths_R), self.team.size)

    def observed(self, states: torch.Tensor) -> Observed:
        """Return moments and sample of all chunks, from this process's states [O, H] and the others' sums."""
        chunks, rows, team = self.chunks, self.rows, self.team
        by_chunk = states.split(chunks.lengths_R[rows].tolist())
        seconds = []
        for j in chunks.owner_R.unique():
            mine = [x for x, row in zip(by_chunk, rows, strict=True) if chunks.owner_R[row] == j]
            mine_OH = torch.cat(mine) if mine else states[:0]
            seconds.append(mine_OH.T @ mine_OH / chunks.lengths_R[chunks.owner_R == j].sum())
        sums_CH = states.new_zeros(len(chunks.lengths_R), states.shape[1])
        sums_CH[rows] = torch.stack([x.sum(dim=0) for x in by_chunk])
        return Observed(
            team.total(torch.stack(seconds).mean(dim=0)),
            team.total(sums_CH),
            chunks.lengths_R.float(),
            chunks.vectors_RM,
            chunks.owner_R,
            team.total(self._sample(states)),
            chunks.owner_R.repeat_interleave(chunks.lengths_R)[self.sampled],
        )

    def _sample(self, states: torch.Tensor) -> torch.Tensor:
        """Return the sampled states [X, H] of this process; those of others are zero."""
        lengths_R = self.chunks.lengths_R
        is_mine_R = torch.zeros(len(lengths_R), dtype=torch.bool)
        is_mine_R[self.rows] = True
        is_mine_V = is_mine_R.repeat_interleave(lengths_R)
        place_X = (is_mine_V.cumsum(0) - 1)[self.sampled]
        is_mine_X = is_mine_V[self.sampled]
        sample_XH = states.new_zeros(len(self.sampled), states.shape[1])
        sample_XH[is_mine_X] = states[place_X[is_mine_X]]
        return sample_XH


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
    part: Part,
    arrive: Callable[[int, Observed], None],
    progress: Progress = silent,
    *,
    attend: Callable[[int, Observed], None] | None = None,
) -> None:
    """Pass this process's chunks forward together, and call `arrive(block, observed)` before each block routes them.

    `attend(block, observed)` is called with the inputs of each block's attention.
    """
    mixtures = model.mixtures()
    ids_RS = part.chunks.ids_RS[part.rows].to(model.device)
    mask_RS = part.chunks.mask(part.rows).to(model.device)
    pieces_count = -(-int(mask_RS.sum()) // TOKENS_AT_ONCE)
    heard: list[Any] = [None] * pieces_count  # states of a recurrent router, one per piece

    def mixture_at(layer: int) -> Callable[[torch.Tensor], torch.Tensor]:
        mixture = mixtures[layer]
        forward = mixture.forward

        def replaced(hidden_states: torch.Tensor) -> torch.Tensor:
            x_VH, context_VF = hidden_states[mask_RS], mixture.router.context
            states = [x_VH.float().cpu()]
            if context_VF is not None:
                context_VF = context_VF.view(*mask_RS.shape, -1)[mask_RS]
                states.append(context_VF.cpu())
            arrive(layer, part.observed(torch.cat(states, dim=1)))
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
            attend(layer, part.observed(u_VH.float().cpu()))

        return observe

    with _replaced(mixtures, mixture_at), ExitStack() as hooks:
        for layer, block in enumerate(model.blocks() if attend is not None else ()):
            hook = attention_of(block).register_forward_pre_hook(
                attention_at(layer), with_kwargs=True, prepend=True
            )
            hooks.callback(hook.remove)
        model(input_ids=ids_RS, use_cache=False, logits_to_keep=1)


def sampled(chunks: Chunks, generator: torch.Generator) -> torch.Tensor:
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
