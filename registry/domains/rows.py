"""Rows of tables: the text of a row, or its conversation.

A conversation is rendered by a chat template (`ChatFormat`), or its texts are joined where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Message = Mapping[str, str]
Spans = tuple[tuple[int, int], ...]

TEXT_COLUMNS = ("text", "content")
TURN_COLUMNS = ("messages", "conversations", "conversation")
# A question, what it is about, and its answer. The second is optional.
PAIR_COLUMNS = (
    ("instruction", "input", "output"),
    ("instruction", "input", "response"),
    ("prompt", "context", "completion"),
    ("prompt", "context", "response"),
    ("question", "context", "answer"),
    ("question", "context", "response"),
)
SYSTEM_COLUMNS = ("system", "system_prompt")
USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
# Roles as ShareGPT and other data sets name them.
_ROLES = {
    **dict.fromkeys(("human", "prompter"), USER),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model", "ai"), ASSISTANT),
}
JOINT = "\n\n"


@dataclass(frozen=True)
class Document:
    """A text, and the character ranges [start, stop) of the answers in it; None for a text without questions."""

    text: str
    answers: Spans | None = None

    def part(self, start: int, stop: int) -> Document:
        """Return the text between two positions, with its part of the answers."""
        if self.answers is None:
            return Document(self.text[start:stop])
        cut = ((max(a, start) - start, min(b, stop) - start) for a, b in self.answers)
        return Document(self.text[start:stop], tuple((a, b) for a, b in cut if a < b))


class ChatFormat(Protocol):
    """A chat template that turns conversations into text."""

    def render(self, messages: Sequence[Message]) -> Document | None:
        """Return the conversation as the model reads it; None if the template refuses it.

        Raises an error of the composer if the template fails.
        """
        ...

    def plain(self, text: str) -> str:
        """Return a rendered text without the template's own words, which say nothing about a domain."""
        ...


class PlainFormat:
    """Conversations without a template: the texts of their messages, joined."""

    def render(self, messages: Sequence[Message]) -> Document:
        """Join the texts; the answers are those of the assistant."""
        text, answers = "", []
        for message in messages:
            text += (JOINT if text and message["content"] else "") + message["content"]
            if message["role"] == ASSISTANT and message["content"]:
                answers.append((len(text) - len(message["content"]), len(text)))
        return Document(text, tuple(answers) or None)

    def plain(self, text: str) -> str:
        """Return the text itself."""
        return text


def content_of(row: Any, column: str | None = None) -> str | list[Message] | None:
    """Return the text of a row, or the messages of its conversation; None if it has neither.

    `column` is the column of the text or the conversation; without it, the usual names are tried.
    """
    if not isinstance(row, dict):
        return None
    if column is not None:
        value = row.get(column)
        return _messages(value) if isinstance(value, list) else _string(value)
    texts = (_string(row.get(name)) for name in TEXT_COLUMNS)
    turns = (_messages(row.get(name)) for name in TURN_COLUMNS)
    found = next((text for text in texts if text is not None), None)
    return found if found is not None else next((each for each in turns if each), None) or _pair(row)


def row_text(row: Any, column: str | None = None) -> str | None:
    """Return the text of a row, with the texts of a conversation joined; None if it has none."""
    content = content_of(row, column)
    return PlainFormat().render(content).text if isinstance(content, list) else content


def _pair(row: Mapping[str, Any]) -> list[Message] | None:
    """Return the messages of a row with a question and its answer: strings, or lists of messages."""
    for asked, about, answered in PAIR_COLUMNS:
        question, answer = row.get(asked), row.get(answered)
        if isinstance(question, list) and isinstance(answer, list):
            parts = _messages(question), _messages(answer)
            if parts[0] and parts[1]:
                return [*parts[0], *parts[1]]
        elif isinstance(question, str) and isinstance(answer, str):
            system = next(filter(None, (_string(row.get(name)) for name in SYSTEM_COLUMNS)), None)
            user = JOINT.join(filter(None, (question, _string(row.get(about)))))
            start = [{"role": SYSTEM, "content": system}] if system else []
            return [*start, {"role": USER, "content": user}, {"role": ASSISTANT, "content": answer}]
    return None


def _messages(turns: Any) -> list[Message] | None:
    """Return the messages of a conversation: objects with `content`, or `value` as ShareGPT has it."""
    if not isinstance(turns, list) or not turns:
        return None
    messages: list[Message] = []
    for place, turn in enumerate(turns):
        given = turn if isinstance(turn, dict) else {}
        text = _text_of(given.get("content", given.get("value")))
        if text is None:
            return None
        role = given.get("role", given.get("from"))
        role = role if isinstance(role, str) else (USER, ASSISTANT)[place % 2]
        messages.append({"role": _ROLES.get(role, role), "content": text})
    return messages


def _text_of(content: Any) -> str | None:
    """Return the text of a message: a string, or parts of type text."""
    if isinstance(content, list) and content:
        parts = [_string(part.get("text")) if isinstance(part, dict) else None for part in content]
        return None if None in parts else "".join(filter(None, parts))
    return _string(content)


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None
