"""Chat templates: their limits, their place in a folder, and the end of a turn that they define."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pico
import pytest

from composer.chat.conversation import Chat
from composer.chat.renderer import Renderer
from composer.chat.templates import ChatTemplate
from composer.errors import ChatTemplateError, RecipeError
from composer.evaluation.chat_harness import conversation_up_to_reply
from composer.generation.sampling import Sampling
from composer.mix.opening import OpenSeed
from registry.checkpoints.tokenizers import MAX_TEMPLATE_BYTES, chat_template
from registry.errors import UnsafeFileError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    """A renderer with a short time limit."""
    with Renderer(seconds=1) as opened:
        yield opened


def render(renderer: Renderer, template: str, messages: Any = USER) -> str:
    """The text of a conversation."""
    return renderer.render(template, messages, tokens={"bos_token": "<s>"})


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "seconds"),
        ("{% set n = 9 ** 99999999 %}{{ n }}", "seconds"),
        ("{{ 'x' * 10**12 }}", "MemoryError"),
        ("{{ 'x' * 5000000 }}", "characters"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for %}", "TemplateSyntaxError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ messages[7].content }}", "UndefinedError"),
        ("{% include 'secrets' %}", "Error"),
    ],
)
def test_a_template_that_fails_is_one_error_and_the_next_one_renders(
    renderer: Renderer, template: str, words: str
) -> None:
    with pytest.raises(ChatTemplateError, match=words):
        render(renderer, template)
    assert render(renderer, CHATML) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_sees_the_conversation_and_the_special_tokens_only(renderer: Renderer) -> None:
    template = "{{ bos_token }}{{ messages | tojson }}{{ tools is defined and tools }}{{ os is defined }}"
    assert render(renderer, template) == '<s>[{"role": "user", "content": "hi"}]NoneFalse'


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"tokenizer_config.json": {"chat_template": "A"}}, "A"),
        ({"tokenizer_config.json": {"chat_template": ""}}, None),
        ({"tokenizer_config.json": {"chat_template": "A"}, "chat_template.jinja": "B"}, "B"),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]
                }
            },
            "D",
        ),
        ({"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "R"}]}}, "R"),
        ({"tokenizer_config.json": {"chat_template": 7}}, None),
        ({"tokenizer_config.json": {"chat_template": [7, {"name": "x"}]}}, None),
    ],
)
def test_a_folders_template_is_its_file_or_a_field_of_its_tokenizer(
    files: dict[str, Any], expected: str | None
) -> None:
    contents = {
        name: (text if isinstance(text, str) else json.dumps(text)).encode() for name, text in files.items()
    }
    assert chat_template(contents) == expected


@pytest.mark.parametrize("content", [b"\xff", b"x" * (MAX_TEMPLATE_BYTES + 1)])
def test_a_template_that_is_too_large_or_no_text_is_refused(content: bytes) -> None:
    with pytest.raises(UnsafeFileError, match=r"chat.template"):
        chat_template({"chat_template.jinja": content})


@pytest.mark.parametrize(
    ("template", "end", "stop"),
    [
        (CHATML, "<|im_end|>", ""),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", None, "\nuser:"),
        ("{% for m in messages %}[{{ m.content }}]{{ eos_token }}{% endfor %}", None, "]</s>["),
        ("{% for m in messages %}{{ m.content }} </s>{% endfor %}", "</s>", ""),
        (
            "{% if messages | length > 1 %}{{ raise_exception('one only') }}{% endif %}{{ messages[0].content }}",
            None,
            "",
        ),
    ],
)
def test_a_reply_ends_where_the_template_ends_a_turn(
    renderer: Renderer, template: str, end: str | None, stop: str
) -> None:
    tokenizer = pico.pico_tokenizer()
    tokenizer.add_tokens(["<|im_end|>"])
    chat = Chat(SimpleNamespace(tokenizer=tokenizer), ChatTemplate(template, "seed"), renderer)  # type: ignore[arg-type]
    ends, sampling = chat._at_turns(Sampling(stop=("own",)))
    assert ends == (frozenset() if end is None else {tokenizer.convert_tokens_to_ids(end)})
    assert sampling.stop == (("own", stop) if stop else ("own",))


@pytest.mark.parametrize("messages", [[], [{"role": "wizard", "content": "x"}]])
def test_a_conversation_without_messages_or_with_an_unknown_role_is_refused(
    renderer: Renderer, messages: Any
) -> None:
    chat = Chat(SimpleNamespace(tokenizer=None), ChatTemplate(CHATML, "seed"), renderer)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="expected"):
        chat.prompt(messages)


def test_a_conversation_for_the_harness_may_begin_its_reply_and_loses_a_refused_system_message(
    renderer: Renderer,
) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    tokenizer = SimpleNamespace(special_tokens_map={}, get_added_vocab=dict)
    chat = Chat(OpenSeed(None, tokenizer), ChatTemplate(refusing, "a test"), renderer)
    asked = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    system = [{"role": "system", "content": "Be brief."}]
    assert conversation_up_to_reply(chat, [*system, *USER], begun=False) == asked
    begun = [*USER, {"role": "assistant", "content": "The answer"}]
    assert conversation_up_to_reply(chat, begun, begun=True) == asked + "The answer"
    with pytest.raises(ChatTemplateError, match="no system"):
        conversation_up_to_reply(
            Chat(OpenSeed(None, tokenizer), ChatTemplate("{{ raise_exception('no system') }}", ""), renderer),
            USER,
            begun=False,
        )
