"""Replies of an open mix or seed to conversations, by a chat template."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence

from composer.chat.renderer import Message, Renderer
from composer.chat.templates import ChatTemplate
from composer.errors import ChatTemplateError, RecipeError
from composer.generation import Finish, Generation, Token, continue_text, stream_text
from composer.generation.sampling import LONGEST_STOP, MOST_STOPS, Sampling
from composer.mix.opening import OpenMix, OpenSeed

ROLES = ("system", "user", "assistant")
ASKED, ANSWERED = "QuestionOfTheUser", "AnswerOfTheModel"  # words that no template contains


class Chat:
    """An open mix or seed with a chat template. A reply ends where the template ends a turn."""

    def __init__(self, opened: OpenMix | OpenSeed, template: ChatTemplate, renderer: Renderer) -> None:
        self.opened, self.template, self.renderer = opened, template, renderer
        self._turn: tuple[frozenset[int], str] | None = None

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of a conversation up to the reply.

        A message is {"role": "system", "user" or "assistant", "content": text}. Raises RecipeError, ChatTemplateError.
        """
        if not messages:
            raise RecipeError("the conversation is empty; expected at least one message")
        for message in messages:
            if message["role"] not in ROLES:
                raise RecipeError(f"the role {message['role']!a} is unknown; expected {', '.join(ROLES)}")
        text = self.render(messages, generation_prompt=True)
        ids: list[int] = self.opened.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            raise ChatTemplateError("the chat template wrote nothing for this conversation")
        return ids

    def stream(
        self, ids: Sequence[int], sampling: Sampling, *, active_experts: Sequence[str] | None = None
    ) -> Generator[Token, None, Finish]:
        """Yield the tokens of the reply to a `prompt`, and return the reason of its end. See `stream_text`."""
        ends, sampling = self._at_turns(sampling)
        return stream_text(self.opened, ids, sampling, ends=ends, active_experts=active_experts)

    def reply(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        active_experts: Sequence[str] | None = None,
        on_token: Callable[[Token], None] | None = None,
    ) -> Generation:
        """Reply to a conversation. Raises RecipeError, PromptTooLongError, ChatTemplateError."""
        ids = self.prompt(messages)
        ends, sampling = self._at_turns(sampling)
        return continue_text(
            self.opened, ids, sampling, ends=ends, active_experts=active_experts, on_token=on_token
        )

    def _at_turns(self, sampling: Sampling) -> tuple[frozenset[int], Sampling]:
        """Return the tokens that end a turn, and the sampling settings with the text that ends one."""
        ends, stop = self.end_of_turn
        if stop and len(sampling.stop) < MOST_STOPS:
            sampling = dataclasses.replace(sampling, stop=(*sampling.stop, stop))
        return ends, sampling

    @property
    def end_of_turn(self) -> tuple[frozenset[int], str]:
        """The token, or else the text, that ends a reply in the template; both are empty if there is none."""
        if self._turn is None:
            self._turn = self._find_end_of_turn()
        return self._turn

    def _find_end_of_turn(self) -> tuple[frozenset[int], str]:
        """Find what the template writes between an answer and the next question.

        An expert's end token is often not the seed's, so the seed's configuration does not name it.
        """
        turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}] * 2
        try:
            text = self.render(turns[:3], generation_prompt=False)
        except ChatTemplateError:  # a template may refuse such a conversation and render the user's
            return frozenset(), ""
        between = text.partition(ANSWERED)[2].partition(ASKED)[0].rstrip()
        added: dict[str, int] = self.opened.tokenizer.get_added_vocab()
        found = [token for token in added if token and between.lstrip().startswith(token)]
        if found:
            return frozenset({added[max(found, key=len)]}), ""
        return frozenset(), between[:LONGEST_STOP]

    def render(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        """Return the text of a conversation, with the start of the reply if `generation_prompt`.

        Raises ChatTemplateError.
        """
        tokens = {
            role: token
            for role, token in self.opened.tokenizer.special_tokens_map.items()
            if isinstance(token, str)
        }
        return self.renderer.render(
            self.template.source, messages, tokens=tokens, generation_prompt=generation_prompt
        )
