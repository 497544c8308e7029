"""Conversations in training text: rendered by a chat template, with the places of the answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from composer.chat.renderer import Renderer
from composer.errors import ChatTemplateError
from registry.blobs import BlobStore, read_files
from registry.checkpoints.preflight import SMALL_FILES, read_small_files
from registry.checkpoints.safe_files import open_regular
from registry.checkpoints.tokenizers import MAX_TEMPLATE_BYTES, chat_template, special_tokens
from registry.domains.rows import ChatFormat, Document, Message, PlainFormat
from registry.errors import UnsafeFileError
from registry.records import Digest

TEMPLATE_FILE = "chat_template.jinja"
ASKED, ANSWERED, TOLD = (
    "QuestionOfTheUser",
    "AnswerOfTheModel",
    "WordsOfTheSystem",
)  # no template contains these
_SHORTEST = 3  # characters of a template's words that are removed


class TemplateFormat:
    """A chat template as a format of conversations."""

    def __init__(self, template: str, tokens: Mapping[str, str], renderer: Renderer) -> None:
        self._template, self._tokens, self._renderer = template, tokens, renderer
        self._rendered = self._refused = 0
        self._words: list[str] | None = None

    def render(self, messages: Sequence[Message]) -> Document | None:
        """Return the conversation as the template writes it, with the places of its answers.

        None for a conversation that the template refuses. Raises ChatTemplateError if it refuses more than it renders.
        """
        try:
            document = self._renderer.render_marked(self._template, messages, tokens=self._tokens)
        except ChatTemplateError:
            self._refused += 1
            if self._refused > self._rendered:
                raise
            return None
        self._rendered += 1
        return document

    def plain(self, text: str) -> str:
        """Return a rendered text without what the template writes around each message."""
        if self._words is None:
            self._words = self._own_words()
        for words in self._words:
            text = text.replace(words, "\n\n")
        return text.strip()

    def _own_words(self) -> list[str]:
        """Return the texts between the messages of two conversations, the longest first."""
        turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]
        found: set[str] = set()
        for messages in (turns * 2, [{"role": "system", "content": TOLD}, *turns]):
            try:
                text = self._renderer.render(
                    self._template, messages, tokens=self._tokens, generation_prompt=False
                )
            except ChatTemplateError:  # many templates refuse a system message
                continue
            for name in (ASKED, ANSWERED, TOLD):
                text = text.replace(name, "\0")
            found |= {words.strip() for words in text.split("\0")}
        return sorted((words for words in found if len(words) >= _SHORTEST), key=lambda w: (-len(w), w))


def read_template(file: Path) -> str:
    """Read a chat template from a file. Raises NotFoundError, UnsafeFileError."""
    with open_regular(file) as stream:
        content = stream.read(MAX_TEMPLATE_BYTES + 1)
    found = chat_template({TEMPLATE_FILE: content})
    if found is None:
        raise UnsafeFileError(f"{file} is empty; expected a chat template in Jinja")
    return found


@contextmanager
def chat_format(
    blobs: BlobStore,
    seed_files: Mapping[str, Digest],
    folder: Path | None = None,
    *,
    template: str | None = None,
) -> Iterator[ChatFormat]:
    """Open the format of conversations in an expert's text: `template`, else that of its folder, else the seed's.

    Without any template, the texts of a conversation are joined. Raises UnsafeFileError.
    """
    files = {
        name: digest
        for name, digest in seed_files.items()
        if name in SMALL_FILES and name != "tokenizer.json"
    }
    seed = read_files(blobs, files)
    own = {} if folder is None else read_small_files(folder, (TEMPLATE_FILE, "tokenizer_config.json"))
    chosen = template or chat_template(own) or chat_template(seed)
    if chosen is None:
        yield PlainFormat()
        return
    renderer = Renderer()
    try:
        yield TemplateFormat(chosen, special_tokens({**seed, **own}), renderer)
    finally:
        renderer.close()
