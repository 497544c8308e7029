"""The playground's newest text of a visitor, and the conversation before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import streamlit as st

from ui.web.models import Speaker

if TYPE_CHECKING:
    from composer.generation import Token


@dataclass
class Writing:
    """A prompt, and the tokens generated so far and their duration in seconds, by speaker.

    An expert's place in `hues` gives its colour.
    In a chat the prompt is the newest message, and `earlier` are the turns before it.
    """

    prompt: str
    chat: bool
    texts: dict[Speaker, list[Token]]
    seconds: dict[Speaker, float]
    hues: list[str] = field(default_factory=list)
    earlier: list[Writing] = field(default_factory=list)

    def text_of(self, who: Speaker) -> str:
        """Return the speaker's text."""
        return "".join(token.text for token in self.texts[who])


def newest_writing(speakers: Sequence[Speaker], chat: bool) -> Writing | None:
    """Return the newest texts, if they are of this form and of a speaker; a conversation must be of every speaker."""
    writing: Writing | None = st.session_state.get("writing")
    if writing is None or writing.chat != chat:
        return None
    known = [who in writing.texts for who in speakers]
    return writing if (all if chat else any)(known) else None


def messages_of(writing: Writing, who: Speaker, system: str) -> list[dict[str, str]]:
    """Return the speaker's own conversation up to the newest message."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn in writing.earlier:
        messages.append({"role": "user", "content": turn.prompt})
        messages.append({"role": "assistant", "content": turn.text_of(who)})
    return [*messages, {"role": "user", "content": writing.prompt}]
