"""A model of lm-evaluation-harness that reads the examples of generation tasks in the mix's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from composer.chat.conversation import Chat
from composer.chat.renderer import Message
from composer.errors import ChatTemplateError


def chat_model(chat: Chat, **settings: Any) -> Any:
    """Return an HFLM whose chat template is rendered by `chat`, in a process with limited time and memory.

    The harness's own rendering has no such limits. `settings` are those of HFLM.
    """
    from lm_eval.models.huggingface import HFLM

    class ChatModel(HFLM):  # type: ignore[misc, unused-ignore] # the harness has no types
        tokenizer_name = chat.template.origin

        @property
        def eot_token_id(self) -> Any:
            """The token that ends a reply."""
            ends, _ = chat.end_of_turn
            return next(iter(ends), super().eot_token_id)

        def chat_template(self, chat_template: bool | str = False) -> str:
            """The template's source, for the harness's report."""
            return chat.template.source

        def apply_chat_template(
            self, chat_history: Sequence[Message], add_generation_prompt: bool = True
        ) -> str:
            """Return a conversation up to the reply, or up to the end of the reply that it begins."""
            return conversation_up_to_reply(chat, chat_history, begun=not add_generation_prompt)

    return ChatModel(pretrained=chat.opened.model, tokenizer=chat.opened.tokenizer, **settings)


def conversation_up_to_reply(chat: Chat, messages: Sequence[Message], *, begun: bool) -> str:
    """Return the text of a conversation up to the reply; if the reply is `begun`, its start is the last message.

    The system message is left out if the template refuses it. Raises ChatTemplateError.
    """
    start = messages[-1]["content"] if begun else ""
    asked = messages[:-1] if begun else messages
    try:
        return chat.render(asked, generation_prompt=True) + start
    except ChatTemplateError:
        others = [message for message in asked if message["role"] != "system"]
        if len(others) == len(asked):
            raise
        return chat.render(others, generation_prompt=True) + start
