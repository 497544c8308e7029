"""Masking: routing to only some of a mix's experts.

Masking is not removal: the averaged trunk still contains the expert's influence. To remove it, use `remove`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from composer.errors import RecipeError
from composer.mix.opening import Manifest
from composer.model.modeling import NexusForCausalLM


@contextmanager
def mask(model: NexusForCausalLM, active: Sequence[int] | None) -> Iterator[None]:
    """Route only to the experts with the indices `active` inside the `with` block; None masks nothing.

    The active experts share the probability of the masked ones. The trunk does not change.
    """
    if active is None:
        yield
        return
    if not active:
        raise RecipeError("every expert is masked: keep at least one active")
    mixtures = model.mixtures()
    before = [(mixture.active, mixture.top_k) for mixture in mixtures]
    try:
        for mixture in mixtures:
            mixture.active = torch.zeros(len(mixture.experts), dtype=torch.bool)
            mixture.active[list(active)] = True
            mixture.top_k = min(mixture.top_k, len(set(active)) + model.config.null_experts)
        yield
    finally:
        for mixture, (active_before, top_k) in zip(mixtures, before, strict=True):
            mixture.active, mixture.top_k = active_before, top_k


def places(manifest: Manifest, refs: Sequence[str] | None) -> list[int] | None:
    """Return the indices of the members given by `name` or `name@version`; None stays None.

    Raises RecipeError for a name that matches no member, or several.
    """
    if refs is None:
        return None
    members = [member.expert.ref for member in manifest.members]
    found = []
    for ref in refs:
        matches = [place for place, member in enumerate(members) if ref in (member, member.split("@")[0])]
        if len(matches) != 1:
            reason = "matches several members" if matches else "is not a member"
            raise RecipeError(f"{ref} {reason} of this mix; its members are {', '.join(members)}")
        found += matches
    return found
