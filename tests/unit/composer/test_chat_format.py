"""Conversations in training text: what a template writes, where the answers are, and what is not the domain's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from composer.chat.format import TemplateFormat
from composer.chat.renderer import Renderer
from composer.errors import ChatTemplateError

SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "So long"},
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    + CHATML
)
LLAMA_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% else %}"
    "{{ raise_exception('no system message') }}{% endif %}{% endfor %}"
)
MARKED = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
# As Qwen3 and DeepSeek do, the earlier answers lose a part, here their first letter.
SHORTENS = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and not loop.last %}{{ m.content[1:] }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    with Renderer() as opened:
        yield opened


def formatted(renderer: Renderer, template: str) -> TemplateFormat:
    return TemplateFormat(template, {"bos_token": "<s>", "eos_token": "</s>"}, renderer)


@pytest.mark.parametrize(
    ("template", "answers"),
    [
        (CHATML, ["Ho<|im_end|>\n", "So long<|im_end|>\n"]),
        (DEFAULT_SYSTEM, ["Ho<|im_end|>\n", "So long<|im_end|>\n"]),
        (LLAMA_2, [" Ho</s>", " So long</s>"]),
        (MARKED, ["Ho</s>", "So long</s>"]),
        (SHORTENS, ["So long"]),
    ],
)
def test_the_answers_with_the_tokens_that_end_them_are_marked(
    renderer: Renderer, template: str, answers: list[str]
) -> None:
    document = formatted(renderer, template).render(TURNS)
    assert document is not None and document.answers is not None
    assert [document.text[start:stop] for start, stop in document.answers] == answers


def test_a_conversation_that_the_template_refuses_is_left_out_but_not_most_of_them(
    renderer: Renderer,
) -> None:
    chat = formatted(renderer, LLAMA_2)
    assert chat.render(TURNS) is not None
    assert chat.render([SYSTEM, *TURNS]) is None
    with pytest.raises(ChatTemplateError, match="no system message"):
        chat.render([SYSTEM, *TURNS])
    with pytest.raises(ChatTemplateError, match="no system message"):
        formatted(renderer, LLAMA_2).render([SYSTEM, *TURNS])


@pytest.mark.parametrize("template", [CHATML, DEFAULT_SYSTEM, LLAMA_2, MARKED])
def test_the_templates_own_words_are_not_the_domains(renderer: Renderer, template: str) -> None:
    chat = formatted(renderer, template)
    document: Any = chat.render(TURNS)
    assert chat.plain(document.text).split() == ["Hi", "Ho", "Bye", "So", "long"]
