"""Routing of whole requests: each row goes to the dense expert whose domain is nearest to the row's first tokens.

This is the ensemble of Branch-Train-Merge (arXiv 2208.03306) with one expert per request, chosen as a server in front
of dense models would choose. The external embedder reads the first tokens; the expert with the nearest domain
embedding processes the whole row. No weights are merged, and tokens are not routed separately.

Shape suffixes: R rows, S tokens per row, N experts, M domain-embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import CausalLMOutput

from registry.domains.embedders import Embedder

FIRST_TOKENS = 64


def nearest(
    tokenizer: Any, embedder: Embedder, means_NM: np.ndarray, ids_RS: torch.Tensor, first: int = FIRST_TOKENS
) -> list[int]:
    """Return, for each row, the index of the domain mean with the largest cosine to the first tokens' embedding."""
    beginnings = tokenizer.batch_decode(ids_RS[:, :first], skip_special_tokens=True)
    directions_NM = means_NM / np.linalg.norm(means_NM, axis=1, keepdims=True)
    places: list[int] = (embedder.encode(beginnings) @ directions_NM.T).argmax(axis=1).tolist()
    return places


class RequestRouter:
    """Dense experts with the interface of one causal LM: each row gets the logits of the expert index from `choose`.

    An expert is opened when a row first needs it.
    """

    def __init__(
        self, experts: Sequence[Callable[[], Any]], choose: Callable[[torch.Tensor], Sequence[int]]
    ) -> None:
        self.experts, self.choose = list(experts), choose
        self.opened: dict[int, Any] = {}
        self.chosen: list[int] = []
        self.length = 0

    @property
    def device(self) -> torch.device:
        """Return the device of the experts; the CPU if no expert is open yet."""
        return next((model.device for model in self.opened.values()), torch.device("cpu"))

    @property
    def config(self) -> Any:
        """Return the configuration of the experts."""
        return self._expert(next(iter(self.opened), 0)).config

    def __call__(self, input_ids: torch.Tensor, **settings: Any) -> CausalLMOutput:
        """Return the logits [R, S, vocabulary] of each row's expert."""
        self.chosen, self.length = [int(place) for place in self.choose(input_ids)], input_ids.shape[1]
        rows: dict[int, torch.Tensor] = {}
        for place in sorted(set(self.chosen)):
            mine = [row for row, chosen in enumerate(self.chosen) if chosen == place]
            logits = self._expert(place)(input_ids=input_ids[mine], **settings).logits
            rows |= dict(zip(mine, logits, strict=True))
        return CausalLMOutput(logits=torch.stack([rows[row] for row in range(len(input_ids))]))

    def choices(self) -> torch.Tensor:
        """Return the expert index of every token in the last call [1, R · S, 1], as for a mix of one block."""
        return torch.tensor(self.chosen).repeat_interleave(self.length)[None, :, None]

    def _expert(self, place: int) -> Any:
        if place not in self.opened:
            self.opened[place] = self.experts[place]()
        return self.opened[place]
