"""A Modelfile next to a GGUF file: `ollama create NAME -f Modelfile` makes it a model of Ollama."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

TEMPLATE_NOTE = """\
# Ollama recognises the chat templates of common models in model.gguf. For any other, add a TEMPLATE here.
"""


def modelfile(tokenizer: Any, size: int, ends: Iterable[int], license: str) -> bytes:
    """Return the Modelfile. Every token that ends a text, of embeddings with `size` rows, stops the generation."""
    ids = dict.fromkeys([tokenizer.eos_token_id, *ends])
    stops = [tokenizer.convert_ids_to_tokens(i) for i in ids if i is not None and i < size]
    lines = ["FROM ./model.gguf", *(f'PARAMETER stop "{stop}"' for stop in stops if _is_plain(stop))]
    # Without a chat template, Ollama must pass the prompt on as it is.
    lines.append(TEMPLATE_NOTE.rstrip() if tokenizer.chat_template else 'TEMPLATE "{{ .Prompt }}"')
    return "\n".join([*lines, f'LICENSE "{license}"', ""]).encode()


def _is_plain(token: str) -> bool:
    """Return whether a token can be written in quotes: the format has no escapes."""
    return token.isprintable() and '"' not in token
