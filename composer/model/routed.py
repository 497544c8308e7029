"""A routed trunk: every token passes through one whole expert, and all tokens share one attention.

Nothing is averaged. One router chooses an expert for each token before the first block, from the token ids alone.
The token then uses that expert's own embeddings, norms, projections, FFNs and head. A key and a value come from the
expert of their own token, whichever expert reads them.

The router is a filter over the domains. Each expert has a profile: the log-frequencies u of tokens and b of hashed
token pairs in its domain's text. They are the evidence at each position, and the domain may change anywhere:

    p_t(i) ∝ [(1 − s) · p_{t−1}(i) + s / P] · exp(κ · [u_i(x_t) + b_i(x_{t−1}, x_t)])        p_0 = 1 / P

This is the forward recursion of a hidden Markov model (Rabiner 1989, equation 20) with one state per expert, a
switching probability s and evidence discounted by κ, because neighbouring tokens are not independent.

An expert that is a low-rank difference from the seed, W_seed + B A (arXiv 2106.09685), shares the seed's layers with
all others of its kind: they are the `base` of these choices, and the layers add B A x for the tokens of each choice.

The posterior at every position is kept in the key-value cache as one more layer. So cropping, reordering and
repeating a cache treat it as they treat keys, and decoding resumes from its last position.

This file needs torch and transformers only, so that an export can carry it.
Shape suffixes: B batch, S sequence, T = B·S tokens, V vocabulary, N experts, P = N and the seed where it is a choice,
C = P + 1 columns of the cache: the posterior and the token. R rank.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import DynamicLayer

from composer.model.initial import PAIR_BUCKETS, PAIR_FACTORS, SHARPNESS, SWITCHING
from composer.model.selection import Routing

NO_TOKEN = -1  # before the first one
# Layers that read [B, heads, S, …]: their tokens are on axis 2. All others read [B, S, …].
TRANSPOSED = {
    "exaone4": ("q_norm", "k_norm"),
    "gemma3_text": ("q_norm", "k_norm"),
    "hunyuan_v1_dense": ("query_layernorm", "key_layernorm"),
}


class ContextRouter(nn.Module):
    """Chooses one expert per token from the text so far.

    `unigrams` [V, P] and `bigrams` [PAIR_BUCKETS, P] are log-frequencies; the last column is the seed's where the
    seed is a choice. `active` and `forced` are used as in a block's mixture.
    """

    unigrams: torch.Tensor
    bigrams: torch.Tensor
    filter: torch.Tensor

    def __init__(self, vocabulary: int, num_experts: int, seed_is_a_choice: bool) -> None:
        super().__init__()
        self.experts = range(num_experts)
        self.register_buffer("unigrams", torch.zeros(vocabulary, num_experts + seed_is_a_choice))
        self.register_buffer("bigrams", torch.zeros(PAIR_BUCKETS, num_experts + seed_is_a_choice))
        self.register_buffer("filter", torch.tensor([SHARPNESS, SWITCHING]))
        self.top_k = 1
        self.active: torch.Tensor | None = None  # bool [N]; None: every expert may be chosen
        # Every token goes to this expert, or those of each row [B] to its own.
        self.forced: int | torch.Tensor | None = None
        self.routing: Routing | None = None  # of the last forward pass

    def forward(
        self, input_ids: torch.Tensor, mask: torch.Tensor | None, before: torch.Tensor | None
    ) -> torch.Tensor:
        """Posteriors of the experts and token ids, [B, S, C]; the choices are in `routing`.

        `mask` [B, S] is False at padding, which changes nothing. `before` [B, C] is the result at the token before
        the first.
        """
        columns = self.unigrams.shape[1]
        if before is None:
            before = torch.full((len(input_ids), columns + 1), 1 / columns)
            before[:, -1] = NO_TOKEN
        if mask is not None and bool(mask.all()):
            mask = None
        last_BS = _last_tokens(input_ids, mask, before[:, -1])
        if self.forced is not None:
            rows = torch.as_tensor(self.forced, dtype=torch.long, device=input_ids.device)
            chosen_BS = rows.view(-1, 1).expand(input_ids.shape)
            probs_BSP = F.one_hot(chosen_BS, columns).float()
        else:
            previous_BS = torch.cat([before[:, -1:].to(last_BS), last_BS[:, :-1]], dim=1)
            probs_BSP = self._filtered(self._evidence(input_ids, previous_BS), mask, before)
        chosen_T1 = probs_BSP.flatten(0, 1).argmax(dim=-1, keepdim=True)
        weights_T1 = (chosen_T1 < len(self.experts)).float()
        self.routing = Routing(probs_BSP.flatten(0, 1), chosen_T1, weights_T1)
        return torch.cat([probs_BSP, last_BS[..., None].to(probs_BSP)], dim=-1)

    def _evidence(self, ids_BS: torch.Tensor, previous_BS: torch.Tensor) -> torch.Tensor:
        """κ · (u + b) at each token [B, S, P]; a first token has no pair."""
        pairs_BSP = self.bigrams[bucket(previous_BS, ids_BS)].float()
        pairs_BSP = pairs_BSP * (previous_BS != NO_TOKEN)[..., None]
        return self.filter[0] * (self.unigrams[ids_BS].float() + pairs_BSP)

    def _filtered(
        self, scores_BSP: torch.Tensor, mask_BS: torch.Tensor | None, before_BC: torch.Tensor
    ) -> torch.Tensor:
        """The recursion. It runs on the CPU: its steps are too small to be worth a launch on a GPU."""
        switching = self.filter[1].item()
        if self.active is not None:
            masked_P = F.pad(~self.active, (0, scores_BSP.shape[-1] - len(self.experts)))
            scores_BSP = scores_BSP.masked_fill(masked_P.to(scores_BSP.device), float("-inf"))
        evidence_BSP = (scores_BSP - scores_BSP.amax(dim=-1, keepdim=True)).exp().cpu()
        columns = evidence_BSP.shape[-1]
        posterior_BP = before_BC[:, :-1].float().cpu()
        padding_BS1 = None if mask_BS is None else ~mask_BS.bool().cpu()[..., None]
        posteriors = []
        for t, evidence_BP in enumerate(evidence_BSP.unbind(dim=1)):
            next_BP = (posterior_BP * (1 - switching) + switching / columns) * evidence_BP
            next_BP = next_BP / next_BP.sum(dim=-1, keepdim=True)
            if padding_BS1 is not None:
                next_BP = torch.where(padding_BS1[:, t], posterior_BP, next_BP)
            posteriors.append(posterior_BP := next_BP)
        return torch.stack(posteriors, dim=1).to(scores_BSP.device)


def bucket(previous: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The row of `bigrams` of each pair of token ids."""
    return (previous.long() * PAIR_FACTORS[0] + ids.long() * PAIR_FACTORS[1]) % PAIR_BUCKETS


def _last_tokens(ids_BS: torch.Tensor, mask_BS: torch.Tensor | None, first_B: torch.Tensor) -> torch.Tensor:
    """The latest token at each position [B, S]; padding repeats the one before it."""
    if mask_BS is None:
        return ids_BS
    positions_S = torch.arange(ids_BS.shape[1], device=ids_BS.device)
    latest_BS = torch.where(mask_BS.bool(), positions_S, -1).cummax(dim=1).values
    found_BS = ids_BS.gather(1, latest_BS.clamp(min=0))
    return torch.where(latest_BS >= 0, found_BS, first_B[:, None].to(found_BS))


@dataclass(frozen=True)
class Choices:
    """The choices of a token: the base of each, FFN widths by base, and the differences of some from their base.

    A difference is {"rank": R, "targets": names of its projections, such as "q_proj"}.
    """

    bases: Sequence[int]
    ffn_widths: Sequence[int]
    differences: Mapping[int, Mapping[str, Any]]

    def of_base(self, base: int, target: str) -> dict[int, int]:
        """Ranks of the differences from one base in one projection, by choice."""
        return {
            choice: difference["rank"]
            for choice, difference in self.differences.items()
            if self.bases[choice] == base and target in difference["targets"]
        }


class Groups:
    """Tokens [B, S] grouped by the base that computes them, and within each base by choice."""

    def __init__(self, chosen_BS: torch.Tensor, bases: Sequence[int]) -> None:
        chosen_T = chosen_BS.flatten()
        found: dict[int, list[int]] = {}
        for choice in chosen_T.unique().tolist():
            found.setdefault(bases[choice], []).append(choice)
        self.single = next(iter(found)) if len(found) == 1 else None
        self.rows: list[tuple[int, torch.Tensor]] = []
        # By base: each choice, and the rows of the base's part that are its own; None for all of them.
        self.within: dict[int, list[tuple[int, torch.Tensor | None]]] = {}
        for base, choices in found.items():
            part_T = chosen_T
            if self.single is None:
                rows_T = torch.isin(chosen_T, torch.tensor(choices, device=chosen_T.device)).nonzero()[:, 0]
                self.rows.append((base, rows_T))
                part_T = chosen_T[rows_T]
            self.within[base] = [
                (j, None if len(choices) == 1 else (part_T == j).nonzero()[:, 0]) for j in choices
            ]
        self._source: torch.Tensor | None = None  # several layers read the same tensor: it is grouped once
        self._parts: list[torch.Tensor] = []

    def parts(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The rows of each group of a tensor [B, S, …]."""
        if self._source is not x:
            flat = x.flatten(0, 1)
            self._source, self._parts = x, [flat[rows_T] for _, rows_T in self.rows]
        return self._parts

    def joined(self, x: torch.Tensor, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The groups' results as one tensor [B, S, …] in the tokens' order."""
        out = parts[0].new_empty((x.shape[0] * x.shape[1], *parts[0].shape[1:]))
        for (_, rows_T), part in zip(self.rows, parts, strict=True):
            out.index_copy_(0, rows_T, part)
        return out.unflatten(0, x.shape[:2])


class Assignment:
    """The choices of one forward pass: of all its tokens, and of those that the head computes."""

    def __init__(self, bases: Sequence[int]) -> None:
        self.bases = list(bases)
        self.body: Groups | None = None
        self.head: Groups | None = None

    def assign(self, chosen_BS: torch.Tensor, kept: int | torch.Tensor) -> None:
        """Use these choices. `kept` is `logits_to_keep`, as transformers defines it."""
        self.body = self.head = Groups(chosen_BS, self.bases)
        if isinstance(kept, torch.Tensor):
            self.head = Groups(chosen_BS[:, kept], self.bases)
        elif kept:
            self.head = Groups(chosen_BS[:, -kept:], self.bases)

    def clear(self) -> None:
        """Release the tensors of the pass."""
        self.body = self.head = None


class RoutedLayer(nn.Module):
    """One layer of every base; each token passes through that of its choice."""

    def __init__(
        self,
        choices: Sequence[nn.Module],
        assignment: Assignment,
        *,
        head: bool = False,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.choices = nn.ModuleList(choices)
        self.assignment, self.is_head, self._transposed = assignment, head, transposed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, S, …] to [B, S, …], or [B, heads, S, …] to the same where transposed."""
        groups = self.assignment.head if self.is_head else self.assignment.body
        if groups is None:
            raise RuntimeError(
                "a routed layer was called outside the mix; call the NexusForCausalLM, which routes first"
            )
        if groups.single is not None:
            return self._of(groups.single, x)
        if self._transposed:
            x = x.transpose(1, 2)
        parts = groups.parts(x)
        y = groups.joined(x, [self._of(j, part) for (j, _), part in zip(groups.rows, parts, strict=True)])
        return y.transpose(1, 2) if self._transposed else y

    def _of(self, base: int, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.choices[base](x)
        return result


class TiedHead(RoutedLayer):
    """The head of a model whose head is its embeddings."""

    def __init__(self, embeddings: RoutedLayer, assignment: Assignment) -> None:
        super().__init__([], assignment, head=True)
        self._embeddings = (embeddings,)  # a tuple, so that it does not become a part of this module

    def _of(self, base: int, x: torch.Tensor) -> torch.Tensor:
        embedding: Any = self._embeddings[0].choices[base]
        if hasattr(embedding, "project"):  # it computes its rows on demand (on_demand.py)
            projected: torch.Tensor = embedding.project(x)
            return projected
        return F.linear(x, embedding.weight)


class LowRank(nn.Module):
    """The difference B A of one choice from its base, in one projection. At first it is zero, and A is random."""

    def __init__(self, rank: int, projection: nn.Linear) -> None:
        super().__init__()
        # A model whose weights will be given is built without any; otherwise numbers are drawn on the CPU.
        weight = projection._parameters.get("weight")
        device = "meta" if weight is not None and weight.is_meta else "cpu"
        self.lora_A = nn.Parameter(torch.empty(rank, projection.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(projection.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as in PEFT

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, self.lora_A), self.lora_B)


class AdaptedLinear(nn.Linear):
    """A projection of a base, with the differences of the choices that share it."""

    differences: nn.ModuleDict
    _base: int
    _assignment: Assignment
    _head: bool

    @staticmethod
    def around(
        projection: nn.Linear, ranks: Mapping[int, int], base: int, assignment: Assignment, head: bool
    ) -> AdaptedLinear:
        """Turn a projection into an adapted one. Its class stays a base: its weight may be computed on demand."""
        kind: type[nn.Module] = type(projection)
        plain = kind is nn.Linear
        adapted: Any = projection
        adapted.__class__ = (
            AdaptedLinear if plain else type(f"Adapted{kind.__name__}", (AdaptedLinear, kind), {})
        )
        adapted.differences = nn.ModuleDict({str(j): LowRank(rank, projection) for j, rank in ranks.items()})
        adapted._base, adapted._assignment, adapted._head = base, assignment, head
        result: AdaptedLinear = adapted
        return result

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = self._assignment.head if self._head else self._assignment.body
        assert groups is not None, "a RoutedLayer around this projection has checked it"
        y = super().forward(x)
        for choice, rows_T in groups.within[self._base]:
            if str(choice) not in self.differences:
                continue
            difference = self.differences[str(choice)]
            if rows_T is None:
                y = y + difference(x)
            else:
                added = difference(x.flatten(0, -2)[rows_T])
                y = y.flatten(0, -2).index_add(0, rows_T, added).view_as(y)
        return y


def route_layers(model: Any, choices: Choices) -> Assignment:
    """Replace every layer with parameters of a dense causal LM by a RoutedLayer. Returns their assignment.

    The bases' FFNs have the given widths; every other layer has the same shape in all of them.
    """
    assignment = Assignment(choices.bases)
    head = model.get_output_embeddings()
    tied = model.config.tie_word_embeddings
    embeddings = None
    for parent, name, module in list(_with_parameters(model)):
        if name == "mlp":
            bases = [_mlp(module, model.config, width) for width in choices.ffn_widths]
        elif module is head and tied:
            continue
        else:
            bases = [copy.deepcopy(module) for _ in choices.ffn_widths]
        bases = [
            _adapted(layer, name, choices, base, assignment, module is head)
            for base, layer in enumerate(bases)
        ]
        transposed = name in TRANSPOSED.get(model.config.model_type, ())
        layer = RoutedLayer(bases, assignment, head=module is head, transposed=transposed)
        embeddings = layer if module is model.get_input_embeddings() else embeddings
        setattr(parent, name, layer)
    if tied:
        assert embeddings is not None
        model.set_output_embeddings(TiedHead(embeddings, assignment))
        model._tied_weights_keys, model.all_tied_weights_keys = None, {}
    return assignment


def _adapted(
    layer: nn.Module, name: str, choices: Choices, base: int, assignment: Assignment, head: bool
) -> nn.Module:
    """The layer of one base, with an AdaptedLinear for each projection that has differences."""
    if isinstance(layer, nn.Linear):
        ranks = choices.of_base(base, name)
        return AdaptedLinear.around(layer, ranks, base, assignment, head) if ranks else layer
    for child_name, child in layer.named_children():
        setattr(layer, child_name, _adapted(child, child_name, choices, base, assignment, head))
    return layer


def add_differences(model: nn.Module, choices: Sequence[int], rank: int) -> None:
    """Give each of these choices a difference in every projection of the blocks, where it has none.

    Its first value is zero, so the model computes the same. A choice that has differences keeps their rank.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, RoutedLayer) and not layer.is_head]
    device = next(model.parameters()).device
    for choice in choices:
        given = [p.shape[0] for name, p in differences(model, choice).items() if name.endswith("lora_A")]
        own_rank = given[0] if given else rank
        for layer in layers:
            base, assignment = layer.assignment.bases[choice], layer.assignment
            layer.choices[base] = _with_difference(
                layer.choices[base], choice, own_rank, base, assignment, device
            )


def _with_difference(
    layer: nn.Module, choice: int, rank: int, base: int, assignment: Assignment, device: torch.device
) -> nn.Module:
    if isinstance(layer, nn.Linear):
        if not isinstance(layer, AdaptedLinear):
            layer = AdaptedLinear.around(layer, {}, base, assignment, head=False)
        if str(choice) not in layer.differences:
            layer.differences[str(choice)] = LowRank(rank, layer).to(device)
        return layer
    for name, child in layer.named_children():
        setattr(layer, name, _with_difference(child, choice, rank, base, assignment, device))
    return layer


def differences(model: nn.Module, choice: int) -> dict[str, nn.Parameter]:
    """Return the parameters of a choice's difference from its base by name."""
    return {name: p for name, p in model.named_parameters() if f".differences.{choice}." in name}


def _with_parameters(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Parent, name and module of every MLP, and of every other module that owns parameters."""
    for name, child in module.named_children():
        if name == "mlp" or next(child.parameters(recurse=False), None) is not None:
            yield module, name, child
        else:
            yield from _with_parameters(child)


def _mlp(mlp: nn.Module, config: Any, width: int) -> nn.Module:
    narrowed = copy.copy(config)
    narrowed.intermediate_size = width
    built: nn.Module = type(mlp)(narrowed)
    return built


def state_before(cache: Any, layer: int) -> torch.Tensor | None:
    """The router's result [B, C] at the last cached token; None where nothing is cached."""
    if cache is None or len(cache.layers) <= layer or cache.layers[layer].get_seq_length() == 0:
        return None
    last: torch.Tensor = cache.layers[layer].keys[:, 0, -1]
    return last


def remember(cache: Any, layer: int, states: torch.Tensor) -> None:
    """Append the router's results [B, S, C] to the cache, as the keys of a layer after the model's own."""
    if len(cache.layers) <= layer:
        cache.layers.append(DynamicLayer())
    keys = states[:, None]
    cache.layers[layer].update(keys, keys[..., :1])
