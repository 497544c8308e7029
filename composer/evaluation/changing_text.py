"""Text that changes domain: rows of joined pieces, a model's loss on them, and its routing around a change.

Held-out text of one domain does not show how fast a mix reacts to a change of domain. In these rows the positions of
the changes are known, so loss and own-expert share are reported by the distance from the last change.

Shape suffixes: R rows, B rows per batch, S tokens per row, T = B · S tokens, L blocks, K experts per token.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from composer.bits_per_byte import HeldOut, token_nats
from composer.errors import MissingTextError

ROWS = 16  # of an evaluation
# First distance of each group; the last group extends to the end of the row.
DISTANCES = (0, 4, 16, 64)

Choices = Callable[[], torch.Tensor]
"""Function that returns the indices [L, T, K] of the experts chosen for the T = B · S tokens of the last batch."""


@dataclass(frozen=True)
class ChangingText:
    """Rows of joined pieces; each piece is from a different domain than the piece before it.

    owner_RS: the index of each token's domain. distance_RS: the token's position in its piece, or −1 in a row's
    first piece, which follows no change. bytes_RS: each token's share of its piece's UTF-8 bytes.
    """

    ids_RS: torch.Tensor
    owner_RS: torch.Tensor
    distance_RS: torch.Tensor
    bytes_RS: torch.Tensor


def stream_of(held_out: HeldOut) -> torch.Tensor:
    """Return the tokens of held-out text as one tensor, without the overlap of one token between windows."""
    return torch.cat([window[:-1] for window in held_out.windows] + [held_out.windows[-1][-1:]])


def changing_text(
    tokenizer: Any, streams: Mapping[str, torch.Tensor], *, rows: int, length: int = 256, pieces: int = 2
) -> ChangingText:
    """Build `rows` rows of `length` tokens from `pieces` equal pieces, with the domains in cyclic order.

    A domain's pieces are evenly spaced over its whole stream. Raises MissingTextError for fewer than two domains, or
    for a domain with less text than one piece.
    """
    size = length // pieces
    domains = list(streams)
    short = [domain for domain in domains if len(streams[domain]) < size]
    if len(domains) < 2 or short:
        raise MissingTextError(
            f"text that changes domain needs two domains with at least {size} tokens of held-out text each; got "
            f"{len(domains)} domains, too short: {', '.join(short) or 'none'}"
        )
    order = [[(row + piece) % len(domains) for piece in range(pieces)] for row in range(rows)]
    wanted = {place: sum(row.count(place) for row in order) for place in range(len(domains))}
    cuts = {
        place: iter(_evenly(streams[domain], size, wanted[place])) for place, domain in enumerate(domains)
    }
    ids, owners, shares = [], [], []
    for row in order:
        parts = [next(cuts[place]) for place in row]
        ids.append(torch.cat(parts))
        owners.append(torch.tensor(row).repeat_interleave(size))
        shares.append(torch.cat([_byte_shares(tokenizer, part) for part in parts]))
    places_S = torch.arange(size * pieces)
    distance_S = torch.where(places_S < size, -1, places_S % size)
    return ChangingText(
        torch.stack(ids), torch.stack(owners), distance_S.repeat(rows, 1), torch.stack(shares)
    )


def of_domains(tokenizer: Any, texts: Mapping[str, HeldOut]) -> ChangingText | None:
    """Build ROWS rows from held-out text of several domains; None for one domain, or if a domain has too little."""
    try:
        return changing_text(tokenizer, {name: stream_of(text) for name, text in texts.items()}, rows=ROWS)
    except MissingTextError:
        return None


def as_held_out(text: ChangingText) -> HeldOut:
    """Return the rows as windows of held-out text, whose first tokens are not predicted."""
    digest = hashlib.sha256(text.ids_RS.numpy().tobytes()).hexdigest()
    return HeldOut(list(text.ids_RS), round(text.bytes_RS[:, 1:].sum().item()), digest)


def own_experts_bits(models: Sequence[Any], text: ChangingText) -> float:
    """Return bits per byte where each token is predicted by its own domain's dense expert, given the whole row."""
    bits: float = summary(text, own_expert_nats(models, text))["bits_per_byte"]
    return bits


def measure(model: Any, text: ChangingText, choices: Choices | None = None) -> dict[str, Any]:
    """Measure a model and return its `summary`; `choices` gives the routing of the model's last batch."""
    own: list[torch.Tensor] = []

    def count() -> None:
        assert choices is not None
        chosen_LTK = choices().cpu()
        length, done = text.ids_RS.shape[1], sum(map(len, own))
        chosen_LBSK = chosen_LTK.unflatten(1, (-1, length))
        owner_BS = text.owner_RS[done : done + chosen_LBSK.shape[1]]
        own.append((chosen_LBSK == owner_BS[None, :, :, None]).float().mean(dim=(0, 3)))

    nats_RS = token_nats(model, text.ids_RS, count if choices is not None else None, last=True)
    return summary(text, nats_RS, torch.cat(own) if own else None)


def own_expert_nats(models: Sequence[Any], text: ChangingText) -> torch.Tensor:
    """Return −log p of every token except the first, under its own domain's dense expert given the whole row."""
    nats_NRS = torch.stack([token_nats(model, text.ids_RS) for model in models])
    return nats_NRS.gather(0, text.owner_RS[None, :, 1:])[0]


def mixture_choices(model: Any) -> Choices:
    """Return the routing choices of a mix in every block; `model` is a NexusForCausalLM."""
    return lambda: torch.stack([mixture.routing.chosen for mixture in model.mixtures()])


def summary(
    text: ChangingText,
    nats_RS: torch.Tensor,
    own_RS: torch.Tensor | None = None,
    distances: Sequence[int] = DISTANCES,
) -> dict[str, Any]:
    """Return bits per byte and, with `own_RS` [R, S], the share of routing to the own domain's expert.

    Returns {"bits_per_byte", "own", "by_distance": {"before" | "0–3" | … | "64+": {"bits_per_byte", "own"}}}.
    `nats_RS` [R, S − 1] begins with the second token. "before" is a row's first piece. A group without tokens is
    omitted.
    """
    names = [f"{a}–{b - 1}" for a, b in pairwise(distances)] + [f"{distances[-1]}+"]
    ends = [*distances[1:], math.inf]
    groups = {"before": text.distance_RS < 0}
    for name, start, end in zip(names, distances, ends, strict=True):
        groups[name] = (text.distance_RS >= start) & (text.distance_RS < end)

    def told(where_RS: torch.Tensor) -> dict[str, float]:
        predicted_RS = where_RS[:, 1:]
        nats = nats_RS[predicted_RS].sum().item()
        found = {"bits_per_byte": nats / math.log(2) / text.bytes_RS[:, 1:][predicted_RS].sum().item()}
        return found if own_RS is None else {**found, "own": own_RS[where_RS].mean().item()}

    everything = torch.ones_like(text.distance_RS, dtype=torch.bool)
    by_distance = {name: told(where_RS) for name, where_RS in groups.items() if where_RS[:, 1:].any()}
    return {**told(everything), "by_distance": by_distance}


def _evenly(stream: torch.Tensor, size: int, count: int) -> list[torch.Tensor]:
    """Return `count` evenly spaced pieces of `size` tokens; they overlap or repeat if the stream is short."""
    last = len(stream) - size
    starts = [last * i // max(1, count - 1) for i in range(count)]
    return [stream[start : start + size] for start in starts]


def _byte_shares(tokenizer: Any, ids_S: torch.Tensor) -> torch.Tensor:
    """Return each token's bytes, scaled to add up to the bytes of the piece, because a character may span tokens."""
    alone = [max(1, len(tokenizer.decode([token]).encode())) for token in ids_S.tolist()]
    whole = len(tokenizer.decode(ids_S.tolist()).encode())
    return torch.tensor(alone, dtype=torch.float64) * (whole / sum(alone))
