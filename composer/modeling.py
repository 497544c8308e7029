"""NexusForCausalLM: the seed's own architecture with each block's MLP replaced by a Nexus mixture.

    additive (the paper):  y = E_0(x) + Σ_top p_i · E_i(x)
    convex:                y = (1 − Σ_top p_i) · E_0(x) + Σ_top p_i · E_i(x)

p is the softmax over all routed experts and is not renormalised over the chosen ones (arXiv 2408.15901).
This file and the routers need torch and transformers only, so that an export can carry them.

Shape suffixes: B batch, S sequence, T = B·S tokens, H model width, N routed experts, K experts per token.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from composer.routers import ROUTERS
from composer.routers.base import Router


class NexusConfig(PreTrainedConfig):
    """A mix's shape: the seed's configuration and what stands beside each MLP.

    text_config: the seed's configuration (its own model type). experts: names of the routed experts, in order.
    ffn_widths: their FFN widths; they may differ from the seed's. domain_dim: width of the domain embeddings.
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
        guidance: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if isinstance(text_config, dict):
            settings = dict(text_config)
            text_config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        self.text_config = text_config if text_config is not None else AutoConfig.for_model("llama")
        self.experts, self.ffn_widths = list(experts), list(ffn_widths)
        self.router, self.domain_dim = router, domain_dim
        self.num_experts_per_tok = num_experts_per_tok
        self.combine, self.load_balance, self.guidance = combine, load_balance, guidance
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            kwargs.setdefault(token, getattr(self.text_config, token, None))
        kwargs.setdefault("tie_word_embeddings", self.text_config.tie_word_embeddings)
        super().__init__(**kwargs)


class Routing(NamedTuple):
    """What a block decided for T tokens: probabilities [T, N], the chosen experts and their weights [T, K]."""

    probabilities: torch.Tensor
    chosen: torch.Tensor
    weights: torch.Tensor


class NexusMLP(nn.Module):
    """Stands where the block's MLP stood: the shared expert, the routed experts and their router."""

    def __init__(
        self, shared: nn.Module, experts: Sequence[nn.Module], router: Router, config: NexusConfig
    ) -> None:
        super().__init__()
        self.shared, self.experts, self.router = shared, nn.ModuleList(experts), router
        self.convex, self.top_k = config.combine == "convex", config.num_experts_per_tok
        self.active: torch.Tensor | None = None  # bool [N]; None: every expert may be chosen
        self.forced: int | None = None  # every token goes to this expert, with weight 1
        self.routing: Routing | None = None  # of the last forward pass

    def route(self, x_TH: torch.Tensor) -> Routing:
        """Choose the experts of each token."""
        if self.forced is not None:
            chosen_TK = torch.full((len(x_TH), 1), self.forced, device=x_TH.device)
            probs_TN = nn.functional.one_hot(chosen_TK[:, 0], len(self.experts)).to(torch.float32)
            return Routing(probs_TN, chosen_TK, torch.ones_like(chosen_TK, dtype=torch.float32))
        logits_TN = self.router(x_TH).float()
        if self.active is not None:
            logits_TN = logits_TN.masked_fill(~self.active.to(logits_TN.device), float("-inf"))
        probs_TN = logits_TN.softmax(dim=-1)
        weights_TK, chosen_TK = probs_TN.topk(min(self.top_k, len(self.experts)), dim=-1)
        return Routing(probs_TN, chosen_TK, weights_TK)

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
        """Run each chosen expert once on its tokens. An expert that no token chose is not touched at all."""
        if len(x_TH) == 1:  # decoding: nothing to sort
            for k, expert in enumerate(chosen_TK[0].tolist()):
                y_TH = y_TH + self.experts[expert](x_TH) * weights_TK[:, k : k + 1]
            return y_TH
        counts = torch.bincount(chosen_TK.flatten(), minlength=len(self.experts)).tolist()
        order = chosen_TK.flatten().argsort(stable=True)
        rows = order.div(chosen_TK.shape[1], rounding_mode="floor").split(counts)
        weights = weights_TK.flatten()[order].split(counts)
        for expert, row, weight in zip(self.experts, rows, weights, strict=True):
            if len(row):
                y_TH.index_add_(0, row, expert(x_TH[row]) * weight[:, None])
        return y_TH


@dataclass
class NexusOutput(CausalLMOutputWithPast):
    """The language model's output; `load_balance` is the auxiliary loss already contained in `loss`."""

    load_balance: torch.Tensor | None = None


class NexusForCausalLM(PreTrainedModel, GenerationMixin):
    """Any supported causal LM with Nexus mixtures for MLPs; generates, saves and loads as its siblings do."""

    config_class = NexusConfig
    base_model_prefix = "language_model"
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True
    # The router's choice is discrete: rounded to bfloat16 it would send some tokens elsewhere.
    _keep_in_fp32_modules_strict = {"router"}  # noqa: RUF012 (the name and form that transformers reads)

    def __init__(self, config: NexusConfig) -> None:
        super().__init__(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        for block in self.blocks():
            block.mlp = _mixture(block.mlp, config)
        self.post_init()

    def blocks(self) -> Iterator[Any]:
        """The decoder blocks, in order."""
        yield from self.language_model.base_model.layers

    def mixtures(self) -> list[NexusMLP]:
        """The mixture of each block, in order."""
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
        labels: torch.Tensor | None = None,
        own_expert: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the seed's forward; with labels, `loss` is cross-entropy and, in training, what routing adds to it:

        load_balance · Switch loss + guidance · guidance loss. `own_expert` [B] says whose domain each row is of;
        −1: nobody's.
        """
        output = self.language_model(input_ids=input_ids, labels=labels, **kwargs)
        loss, balance = output.loss, None
        if labels is not None and self.training:
            routings = [m.routing for m in self.mixtures() if m.routing is not None]
            if self.config.load_balance > 0:
                balance = switch_loss(routings)
                loss = loss + self.config.load_balance * balance
            if self.config.guidance > 0 and own_expert is not None:
                loss = loss + self.config.guidance * guidance_loss(routings, own_expert)
        # Named as the output names them: transformers 5.24 calls `cache` what was `past_key_values` before.
        return NexusOutput(**{**output, "loss": loss, "load_balance": balance})


def switch_loss(routings: Sequence[Routing]) -> torch.Tensor:
    """Load-balancing loss n · Σ_i f_i · P_i (Switch, arXiv 2101.03961), mean over blocks; 1 when balanced.

    f_i is the share of tokens sent to expert i, P_i its mean probability, over the tokens of this micro-batch.
    """
    losses = []
    for routing in routings:
        n = routing.probabilities.shape[-1]
        share_N = torch.bincount(routing.chosen.flatten(), minlength=n) / routing.chosen.numel()
        losses.append(n * (share_N * routing.probabilities.mean(dim=0)).sum())
    return torch.stack(losses).mean()


def guidance_loss(routings: Sequence[Routing], own_B: torch.Tensor) -> torch.Tensor:
    """−log p of each token's own domain's expert, mean over tokens and blocks; tokens of no domain are left out.

    Domain labels as in DEMix layers (arXiv 2108.05036), but as a loss: they are not needed when the mix is used.
    """
    losses = []
    for routing in routings:
        own_T = own_B.repeat_interleave(len(routing.probabilities) // len(own_B))
        known_T = own_T >= 0
        chance_T = routing.probabilities.gather(1, own_T.clamp(min=0)[:, None])[:, 0]
        losses.append((-chance_T.clamp(min=1e-9).log() * known_T).sum() / known_T.sum().clamp(min=1))
    return torch.stack(losses).mean()


@contextmanager
def forced(model: NexusForCausalLM, expert: int) -> Iterator[None]:
    """Send every token to one expert with weight 1, whatever the router says."""
    try:
        for mixture in model.mixtures():
            mixture.forced = expert
        yield
    finally:
        for mixture in model.mixtures():
            mixture.forced = None


def _mixture(mlp: nn.Module, config: NexusConfig) -> NexusMLP:
    """A mixture around the block's own MLP: its class builds the experts, so every family comes out right."""
    experts = []
    for width in config.ffn_widths:
        text_config = copy.copy(config.text_config)
        text_config.intermediate_size = width
        experts.append(type(mlp)(text_config))
    router = ROUTERS[config.router](config.text_config.hidden_size, config.domain_dim, len(experts))
    if (
        router.domains.device.type != "meta"
    ):  # transformers initialises the modules that it knows, and no others
        router.reset_parameters(torch.Generator().manual_seed(0))
    return NexusMLP(mlp, experts, router, config)
