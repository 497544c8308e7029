"""The web app's open models: a few, shared by all visitors, each used by one visitor at a time."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import streamlit as st

from registry.home import Registry

if TYPE_CHECKING:
    from composer.generation import Token
    from composer.generation.sampling import Sampling
    from composer.mix.opening import OpenMix, OpenSeed

MOST_OPEN = 3


@dataclass(frozen=True)
class Speaker:
    """A model that generates text: a mix by `name@version`, or a seed by its name."""

    name: str
    is_seed: bool = False

    def __str__(self) -> str:
        return f"{self.name} (seed)" if self.is_seed else self.name


@dataclass(frozen=True)
class Loaded:
    """An open model. Masking changes a mix while it generates, so each use must hold the lock `turn`."""

    model: OpenMix | OpenSeed
    turn: threading.Lock = field(default_factory=threading.Lock)


@st.cache_resource(max_entries=MOST_OPEN, show_spinner="Opening the model …")
def loaded(_registry: Registry, home: str, name: str, is_seed: bool) -> Loaded:
    """Open a speaker of the registry in `home`, once. The first use imports torch."""
    from composer.mix.lock import lock_seed
    from composer.mix.opening import find_mix, open_mix, open_seed
    from registry.catalog.queries import get_seed

    if is_seed:
        return Loaded(open_seed(_registry, lock_seed(get_seed(_registry, name))))
    _record, manifest = find_mix(_registry, name)
    return Loaded(open_mix(_registry, manifest))


def release() -> None:
    """Close every open model; its memory is freed when its last user finishes."""
    loaded.clear()


def write(
    registry: Registry,
    speakers: Sequence[Speaker],
    prompt: str,
    sampling: Sampling,
    *,
    active_experts: Sequence[str],
) -> Generator[tuple[Speaker, Token], None, None]:
    """Let speakers continue a prompt in turns, one token per turn; open their models first if necessary.

    The models are locked until the generator ends or is closed. The first speaker, a mix, routes to
    `active_experts` only. Raises the errors of `composer.generation`.
    """
    from composer.generation import stream_text

    opened = {who: loaded(registry, str(registry.home), who.name, who.is_seed) for who in speakers}
    with ExitStack() as turns:
        # Every visitor locks in the same order, so two visitors who need the same two models cannot deadlock.
        for each in sorted(opened.values(), key=id):
            turns.enter_context(each.turn)
        streams = {
            who: stream_text(
                each.model,
                prompt,
                sampling,
                active_experts=active_experts if place == 0 else None,
            )
            for place, (who, each) in enumerate(opened.items())
        }
        while streams:
            for who, stream in list(streams.items()):
                token = next(stream, None)
                if token is None:
                    del streams[who]
                else:
                    yield who, token
