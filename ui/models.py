"""Mixes that the web app holds open: a few, shared by all visitors, each used by one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import streamlit as st

from registry.home import Registry

if TYPE_CHECKING:
    from composer.generate import Generation, Token
    from composer.mix import OpenMix

MOST_OPEN = 2


@dataclass(frozen=True)
class Loaded:
    """An open mix. Masking changes the model while it generates, so `turn` is held meanwhile."""

    mix: OpenMix
    turn: threading.Lock = field(default_factory=threading.Lock)


@st.cache_resource(max_entries=MOST_OPEN, show_spinner="Opening the mix …")
def loaded(_registry: Registry, home: str, ref: str) -> Loaded:
    """The mix `name@version` of the registry in `home`, opened once. The first use imports torch."""
    from composer.mix import find_mix, open_mix

    _record, manifest = find_mix(_registry, ref)
    return Loaded(open_mix(_registry, manifest))


def release() -> None:
    """Let go of every open mix, and of its memory once nobody uses it."""
    loaded.clear()


def write(
    registry: Registry,
    ref: str,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float,
    random_seed: int,
    active_experts: Sequence[str],
    on_token: Callable[[Token], None],
) -> Generation:
    """Continue a prompt with a mix, opening it if need be. Raises what `composer.generate` raises."""
    from composer.generate import continue_text

    model = loaded(registry, str(registry.home), ref)
    with model.turn:
        return continue_text(
            model.mix,
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            random_seed=random_seed,
            active_experts=active_experts,
            on_token=on_token,
        )
