"""The web app's open models: a few, shared by all visitors, each used by one visitor at a time."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import streamlit as st

from registry.home import Registry

if TYPE_CHECKING:
    from composer.chat.conversation import Chat
    from composer.chat.renderer import Message, Renderer
    from composer.generation import Finish, Token
    from composer.generation.sampling import Sampling
    from composer.mix.opening import OpenMix, OpenSeed

MOST_OPEN = 3
ALTERNATIVES = 5  # of each generated token


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


@st.cache_resource(show_spinner=False)
def renderer() -> Renderer:
    """Return the process that renders chat templates, for all visitors."""
    from composer.chat.renderer import Renderer

    return Renderer()


def write(
    registry: Registry,
    prompts: Mapping[Speaker, str | Sequence[Message]],
    sampling: Sampling,
    *,
    active_experts: Sequence[str],
    template: str | None = None,
) -> Generator[tuple[Speaker, Token], None, None]:
    """Let speakers continue a text, or reply to a conversation, in turns of one token.

    Their models are opened first if necessary. They are locked until the generator ends or is closed. The first
    speaker, a mix, routes to `active_experts` only. Its chat template is the one of the expert `template`, or the
    mix's; a seed uses the same. Raises the errors of `composer.generation` and `composer.chat`.
    """
    opened = {who: loaded(registry, str(registry.home), who.name, who.is_seed) for who in prompts}
    streams = {}
    for place, (who, prompt) in enumerate(prompts.items()):
        active = active_experts if place == 0 else None
        model = opened[who].model
        if isinstance(prompt, str):
            from composer.generation import stream_text

            streams[who] = stream_text(
                model, prompt, sampling, active_experts=active, alternatives=ALTERNATIVES
            )
        else:
            first = next(iter(opened.values())).model
            chat = _chat(registry, model, first, template if place == 0 or who.is_seed else None)
            streams[who] = chat.stream(chat.prompt(prompt), sampling, active_experts=active)
    return _in_turns(list(opened.values()), streams)


def _chat(
    registry: Registry, model: OpenMix | OpenSeed, first: OpenMix | OpenSeed, template: str | None
) -> Chat:
    from composer.chat.conversation import Chat
    from composer.chat.templates import template_of

    manifest = getattr(model, "manifest", None) or getattr(first, "manifest", None)
    assert manifest is not None, "the first speaker is a mix"
    return Chat(model, template_of(registry.blobs, manifest, template), renderer())


def _in_turns(
    opened: Sequence[Loaded], streams: dict[Speaker, Generator[Token, None, Finish]]
) -> Generator[tuple[Speaker, Token], None, None]:
    with ExitStack() as turns:
        # Every visitor locks in the same order, so two visitors who need the same two models cannot deadlock.
        for each in sorted(opened, key=id):
            turns.enter_context(each.turn)
        while streams:
            for who, stream in list(streams.items()):
                token = next(stream, None)
                if token is None:
                    del streams[who]
                else:
                    yield who, token
