"""How a mix combines its experts and how many of them a token takes: asked by a recipe, kept by a mix."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Combine = Literal["convex", "additive"]


class RoutingOptions(BaseModel):
    """Fields that a recipe, a lock's settings and a manifest share.

    With `top_p` a token takes as few experts as reach this probability together; `null_experts` compute nothing and
    leave the token to the seed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    combine: Combine = "convex"
    top_k: Annotated[int, Field(ge=1)] = 1
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    null_experts: Annotated[int, Field(ge=0)] = 0

    def routing(self) -> dict[str, Any]:
        """The shared fields alone, by name."""
        return {name: getattr(self, name) for name in RoutingOptions.model_fields}

    @property
    def selection(self) -> str:
        """How experts are chosen, in words: "top-2 with 1 null expert"."""
        chosen = f"top-{self.top_k}" if self.top_p is None else f"top-p {self.top_p:g}"
        nulls = f" with {self.null_experts} null expert{'s'[: self.null_experts > 1]}"
        return chosen + nulls if self.null_experts else chosen

    @property
    def experts_per_token(self) -> str:
        """How many experts a token takes, in words: "2", "at most 2", "as many as reach p = 0.6"."""
        if self.top_p is not None:
            return f"as many as reach p = {self.top_p:g}"
        return f"at most {self.top_k}" if self.null_experts else str(self.top_k)
