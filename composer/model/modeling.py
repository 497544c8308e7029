"""NexusForCausalLM: the seed's own architecture with each block's MLP replaced by a Nexus mixture.

    additive (the paper):  y = E_0(x) + Σ_top p_i · E_i(x)
    convex:                y = (1 − Σ_top p_i) · E_0(x) + Σ_top p_i · E_i(x)

p is the softmax over all routed experts. It is not renormalised over the chosen ones (arXiv 2408.15901).
selection.py chooses the experts. This file and its imports need torch and transformers only, so an export can
include them.

Shape suffixes: B batch, S sequence, T = B·S tokens, H model width, N routed experts, P router columns (N plus the
null experts), K slots per token.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from composer.model.losses import RouterLosses
from composer.model.prefix import BlockContext, PrefixMeans
from composer.model.routed import Choices, ContextRouter, remember, route_layers, state_before
from composer.model.routers import router_class
from composer.model.routers.base import Router
from composer.model.selection import Routing, dense_to_sparse, top_k, top_p

CACHES = ("cache", "past_key_values")  # what transformers calls the key-value cache, from 5.24 on and before


class NexusConfig(PreTrainedConfig):
    """Configuration of a mix: the seed's configuration, the experts and the router.

    text_config: the seed's configuration (its own model type). experts: names of the routed experts, in order.
    ffn_widths: their FFN widths, which may differ from the seed's. domain_dim: width of the domain embeddings.
    routing_top_p: the least total probability of a token's experts. None: a token uses `num_experts_per_tok`.
    (transformers would treat a field named `top_p` as a generation setting.)
    null_experts: number of router columns that compute nothing.
    routed_trunk: each token passes through one whole expert (routed.py); one null expert then makes the seed a choice.
    bases: the index of the whole weights that each choice of a routed trunk builds on; empty: each has its own.
    differences: by expert of a routed trunk, its low-rank difference from its base (routed.Choices) or None.
    """

    model_type = "nexus"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012 (the name and form that transformers reads)

    def __init__(
        self,
        text_config: dict[str, Any] | PreTrainedConfig | None = None,
        experts: Sequence[str] = (),
        ffn_widths: Sequence[int] = (),
        router: str = "nexus",
        domain_dim: int = 384,
        combine: str = "convex",
        num_experts_per_tok: int = 1,
        load_balance: float = 0.01,
        routing_top_p: float | None = None,
        null_experts: int = 0,
        routed_trunk: bool = False,
        bases: Sequence[int] = (),
        differences: Sequence[dict[str, Any] | None] = (),
        **kwargs: Any,
    ) -> None:
        if isinstance(text_config, dict):
            settings = dict(text_config)
            text_config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        self.text_config = text_config if text_config is not None else AutoConfig.for_model("llama")
        self.experts, self.ffn_widths = list(experts), list(ffn_widths)
        self.router, self.domain_dim = router, domain_dim
        self.num_experts_per_tok, self.routing_top_p = num_experts_per_tok, routing_top_p
        self.null_experts, self.routed_trunk = null_experts, routed_trunk
        self.bases, self.differences = list(bases), list(differences)
        self.combine, self.load_balance = combine, load_balance
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            kwargs.setdefault(token, getattr(self.text_config, token, None))
        kwargs.setdefault("tie_word_embeddings", self.text_config.tie_word_embeddings)
        super().__init__(**kwargs)


class NexusMLP(nn.Module):
    """Replacement of a block's MLP: the shared expert, the routed experts and their router."""

    def __init__(
        self, shared: nn.Module, experts: Sequence[nn.Module], router: Router, config: NexusConfig
    ) -> None:
        super().__init__()
        self.shared, self.experts, self.router = shared, nn.ModuleList(experts), router
        self.convex = config.combine == "convex"
        self.top_k, self.top_p = config.num_experts_per_tok, config.routing_top_p
        self.temperature: float | None = None  # if set, training uses dense routing at this temperature
        self.active: torch.Tensor | None = None  # bool [N]; None: every expert may be chosen
        self.forced: int | None = None  # if set, every token is routed to this expert, with weight 1
        self.routing: Routing | None = None  # result of the last forward pass

    def route(self, x_TH: torch.Tensor) -> Routing:
        """Choose the experts of each token."""
        if self.forced is not None:
            chosen_TK = torch.full((len(x_TH), 1), self.forced, device=x_TH.device)
            probs_TN = nn.functional.one_hot(chosen_TK[:, 0], len(self.experts)).to(torch.float32)
            return Routing(probs_TN, chosen_TK, torch.ones_like(chosen_TK, dtype=torch.float32))
        logits_TP = self.router(x_TH).float()
        n = len(self.experts)
        if self.active is not None:
            masked_P = nn.functional.pad(~self.active, (0, logits_TP.shape[-1] - n)).to(logits_TP.device)
            logits_TP = logits_TP.masked_fill(masked_P, float("-inf"))
        if self.training and self.temperature is not None:
            return dense_to_sparse(logits_TP, n, self.temperature)
        if self.top_p is not None:
            return top_p(logits_TP, n, self.top_p)
        return top_k(logits_TP, n, self.top_k)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x_TH = hidden_states.reshape(-1, hidden_states.shape[-1])
        routing = self.routing = self.route(x_TH)
        weights_TK = routing.weights.to(x_TH.dtype)
        y_TH = self.shared(x_TH)
        if self.convex:
            y_TH = y_TH * (1 - weights_TK.sum(dim=-1, keepdim=True))
        return self._add_experts(y_TH, x_TH, routing.chosen, weights_TK).view_as(hidden_states)

    def _add_experts(
        self, y_TH: torch.Tensor, x_TH: torch.Tensor, chosen_TK: torch.Tensor, weights_TK: torch.Tensor
    ) -> torch.Tensor:
        """Run each chosen expert once on its tokens. The weights of an expert that no token chose are not read."""
        if len(x_TH) == 1:  # decoding: nothing to sort
            for k, expert in enumerate(chosen_TK[0].tolist()):
                if expert < len(self.experts):
                    y_TH = y_TH + self.experts[expert](x_TH) * weights_TK[:, k : k + 1]
            return y_TH
        counts = torch.bincount(chosen_TK.flatten(), minlength=len(self.experts)).tolist()
        order = chosen_TK.flatten().argsort(stable=True)
        rows = order.div(chosen_TK.shape[1], rounding_mode="floor").split(counts)
        weights = weights_TK.flatten()[order].split(counts)
        for expert, row, weight in zip(self.experts, rows, weights, strict=False):  # null experts come last
            if len(row):
                y_TH.index_add_(0, row, expert(x_TH[row]) * weight[:, None])
        return y_TH


@dataclass
class NexusOutput(CausalLMOutputWithPast):
    """Output of the language model. `load_balance` is that loss before its factor; `loss` already includes it."""

    load_balance: torch.Tensor | None = None


class NexusForCausalLM(PreTrainedModel, GenerationMixin):
    """Supported causal LM with Nexus mixtures as MLPs; generates, saves and loads like any transformers model."""

    config_class = NexusConfig
    base_model_prefix = "language_model"
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True
    # The router's choice is discrete: rounding its weights to bfloat16 would change the expert of some tokens.
    _keep_in_fp32_modules_strict = {"router"}  # noqa: RUF012 (the name and form that transformers reads)

    def __init__(self, config: NexusConfig) -> None:
        super().__init__(config)
        self.means: PrefixMeans | None = None  # of a mix whose routers read context
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        if config.routed_trunk:
            self.assignment = route_layers(self.language_model, _choices(config))
            self.router = ContextRouter(
                config.text_config.vocab_size, len(config.experts), bool(config.null_experts)
            )
        else:
            for number, block in enumerate(self.blocks()):
                block.mlp = _mixture(block.mlp, config, number)
            for below, mixture in pairwise(self.mixtures()):
                mixture.router.follow(below.router)
            self._read_context()
        self.router_losses = RouterLosses(config.load_balance, experts=len(config.experts))
        self.post_init()

    def _read_context(self) -> None:
        """Compute running means over the prefix in every pass, if the routers read them."""
        blocks = list(self.blocks())
        if not blocks[0].mlp.router.reads_context:
            return
        self.means = PrefixMeans(len(blocks))
        for number, block in enumerate(blocks):
            BlockContext(self.means, number, block, block.mlp.router)

    @property
    def _after(self) -> int:
        """Place in the cache of the layer after the model's own, for what the routers remember."""
        return int(self.config.text_config.num_hidden_layers)

    def blocks(self) -> Iterator[Any]:
        """Yield the decoder blocks, in order."""
        yield from self.language_model.base_model.layers

    def mixtures(self) -> list[Any]:
        """Return the mixture of each block, in order, or the one router of a routed trunk."""
        if self.config.routed_trunk:
            return [self.router]
        return [block.mlp for block in self.blocks()]

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        own_expert: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """Run the model like the seed. With labels, `loss` is the cross-entropy; training adds the `router_losses`.

        `generate` passes `attention_mask`, `position_ids` and `logits_to_keep` only to a model that names them.

        `own_expert` [B] is the index of the expert whose domain each row comes from, or −1 for none. When a routed
        trunk trains, the row passes through this expert.
        """
        if self.config.routed_trunk:
            if self.training and own_expert is not None:
                self.router.forced = own_expert
            return self._forward_routed(
                input_ids, attention_mask, logits_to_keep, position_ids=position_ids, labels=labels, **kwargs
            )
        if self.means is not None:
            self.means.begin(attention_mask, state_before(_cache(kwargs), self._after))
        output = self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        if self.means is not None and _cache(output) is not None:
            remember(_cache(output), self._after, self.means.states())
        loss, balance = output.loss, None
        if labels is not None and self.training:
            routings = [m.routing for m in self.mixtures() if m.routing is not None]
            added, balance = self.router_losses(routings, own_expert)
            loss = loss + added
        # The output's own field names are kept: transformers 5.24 renamed `past_key_values` to `cache`.
        return NexusOutput(**{**output, "loss": loss, "load_balance": balance})

    def _forward_routed(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        logits_to_keep: int | torch.Tensor,
        **kwargs: Any,
    ) -> Any:
        """Choose an expert per token, then pass each through its own."""
        if input_ids is None:
            raise ValueError("a routed trunk chooses experts by token ids; pass input_ids, not inputs_embeds")
        after = self.config.text_config.num_hidden_layers  # the cache's layer for the posteriors
        cache = _cache(kwargs)
        padding = attention_mask is not None and attention_mask.dim() == 2
        mask_BS = attention_mask[:, -input_ids.shape[1] :] if padding and attention_mask is not None else None
        states_BSC: torch.Tensor = self.router(input_ids, mask_BS, state_before(cache, after))
        assert self.router.routing is not None
        self.assignment.assign(self.router.routing.chosen.view_as(input_ids), logits_to_keep)
        try:
            output = self.language_model(
                input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=logits_to_keep, **kwargs
            )
        finally:
            if not self.training:  # gradient checkpointing needs it in the backward pass
                self.assignment.clear()
        cache = _cache(output)
        if cache is not None:
            remember(cache, after, states_BSC)
        return NexusOutput(**output)


@contextmanager
def forced(model: NexusForCausalLM, expert: int) -> Iterator[None]:
    """Route every token to one expert with weight 1, regardless of the router."""
    try:
        for mixture in model.mixtures():
            mixture.forced = expert
        yield
    finally:
        for mixture in model.mixtures():
            mixture.forced = None


def _choices(config: NexusConfig) -> Choices:
    widths = [*config.ffn_widths, *[config.text_config.intermediate_size] * config.null_experts]
    bases = config.bases or list(range(len(widths)))
    by_base = dict(zip(bases, widths, strict=True))
    differences = {j: difference for j, difference in enumerate(config.differences) if difference}
    return Choices(bases, [by_base[base] for base in range(len(by_base))], differences)


def _cache(values: Mapping[str, Any]) -> Any:
    """Return the key-value cache among a pass's arguments or results; None if there is none."""
    # Asking an output for the other version's name would print a warning.
    return next((value for name, value in values.items() if name in CACHES and value is not None), None)


def _mixture(mlp: nn.Module, config: NexusConfig, number: int) -> NexusMLP:
    """Build a mixture around a block's MLP. The MLP's own class builds the experts, so every family works."""
    experts = []
    for width in config.ffn_widths:
        text_config = copy.copy(config.text_config)
        text_config.intermediate_size = width
        experts.append(type(mlp)(text_config))
    router = router_class(config.router)(
        config.text_config.hidden_size, config.domain_dim, len(experts), config.null_experts, number
    )
    if router.domains.device.type != "meta":  # transformers initialises only the modules that it knows
        router.reset_parameters(torch.Generator().manual_seed(0))
    return NexusMLP(mlp, experts, router, config)
