"""Options for the combination and the selection of experts, shared by recipes and mixes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Combine = Literal["convex", "additive"]


class RoutingOptions(BaseModel):
    """Fields that a recipe, the settings of a lock and a manifest share.

    With `top_p` a token uses the fewest experts whose probabilities sum to it, instead of `top_k` experts.
    `null_experts` are extra choices that compute nothing: a token that chooses one uses one expert fewer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    combine: Combine = "convex"
    top_k: Annotated[int, Field(ge=1)] = 1
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    null_experts: Annotated[int, Field(ge=0)] = 0

    def routing(self) -> dict[str, Any]:
        """Values of these fields by name."""
        return {name: getattr(self, name) for name in RoutingOptions.model_fields}

    @property
    def selection(self) -> str:
        """Selection of experts in words: "top-2 with 1 null expert"."""
        chosen = f"top-{self.top_k}" if self.top_p is None else f"top-p {self.top_p:g}"
        nulls = f" with {self.null_experts} null expert{'s'[: self.null_experts > 1]}"
        return chosen + nulls if self.null_experts else chosen

    @property
    def experts_per_token(self) -> str:
        """Number of experts per token in words: "2", "at most 2", "as many as reach p = 0.6"."""
        if self.top_p is not None:
            return f"as many as reach p = {self.top_p:g}"
        return f"at most {self.top_k}" if self.null_experts else str(self.top_k)
