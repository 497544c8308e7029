"""Replies of the API in OpenAI's shape, whole or in chunks, with the experts' shares in the field `nexusmix`."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer.generation import Finish, Token


@dataclass
class Reply:
    """A reply that is being written: the texts and routing of its tokens so far."""

    model: str
    fingerprint: str
    prompt_tokens: int
    chat: bool
    texts: list[str] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}"

    def add(self, token: Token) -> None:
        """Append a token."""
        self.texts.append(token.text)
        for ref, share in token.experts.items():
            self.shares[ref] = self.shares.get(ref, 0.0) + share

    def whole(self, finish: Finish) -> dict[str, Any]:
        """Return the complete reply."""
        text = "".join(self.texts)
        content = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return {
            **self._head("chat.completion" if self.chat else "text_completion"),
            "choices": [{"index": 0, **content, "finish_reason": finish, "logprobs": None}],
            "usage": self.usage(),
            "nexusmix": self.routing(),
        }

    def opening(self) -> dict[str, Any]:
        """Return the first chunk of a streamed chat, which names the role."""
        return self._chunk({"delta": {"role": "assistant", "content": ""}})

    def piece(self, text: str) -> dict[str, Any]:
        """Return a chunk with a piece of text."""
        return self._chunk({"delta": {"content": text}} if self.chat else {"text": text})

    def closing(self, finish: Finish) -> dict[str, Any]:
        """Return the last chunk, with the reason of the end and the routing."""
        chunk = self._chunk({"delta": {}} if self.chat else {"text": ""}, finish)
        return {**chunk, "nexusmix": self.routing()}

    def counts(self) -> dict[str, Any]:
        """Return the chunk with the token counts, which has no choices."""
        return {**self._head(self._chunk_kind), "choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """Return the token counts."""
        written = len(self.texts)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
        }

    def routing(self) -> dict[str, Any]:
        """Return each expert's mean share over the tokens, and the speed."""
        count = max(1, len(self.texts))
        return {
            "experts": {ref: total / count for ref, total in self.shares.items()},
            "tokens_per_second": len(self.texts) / max(1e-9, time.perf_counter() - self.started),
        }

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _chunk(self, content: dict[str, Any], finish: Finish | None = None) -> dict[str, Any]:
        choice = {"index": 0, **content, "finish_reason": finish, "logprobs": None}
        return {**self._head(self._chunk_kind), "choices": [choice]}


def event(data: dict[str, Any] | str) -> bytes:
    """Encode a server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=True, allow_nan=False)
    return f"data: {text}\n\n".encode()
