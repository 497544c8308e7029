"""Rendering of chat templates in a child process, whose time and memory are limited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from composer.errors import ChatTemplateError
from registry.checkpoints.safe_files import printable
from registry.domains.rows import Document, Message

CHILD = Path(__file__).with_name("child.py")
SECONDS = 5.0  # of one rendering
PASSED_ON = ("PATH", "HOME", "LD_LIBRARY_PATH", "LANG", "OMP_NUM_THREADS")


class Renderer:
    """Renders chat templates. The process starts at the first use, or earlier with `start`, and is used again."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Renderer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the process without waiting for it, so that its imports run next to other work."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def render(
        self,
        template: str,
        messages: Sequence[Message],
        *,
        tokens: Mapping[str, str],
        generation_prompt: bool = True,
    ) -> str:
        """Return the conversation as the template writes it; `tokens` are the tokenizer's special tokens by role.

        Raises ChatTemplateError if the template fails or exceeds its limits.
        """
        return str(self._asked(template, messages, tokens, generation_prompt=generation_prompt)["text"])

    def render_marked(
        self, template: str, messages: Sequence[Message], *, tokens: Mapping[str, str]
    ) -> Document:
        """Return the conversation as the template writes it, with the places of the assistant's answers.

        Raises ChatTemplateError if the template fails or exceeds its limits.
        """
        found = self._asked(template, messages, tokens, answers=True)
        return Document(found["text"], tuple((start, stop) for start, stop in found["answers"]))

    def _asked(
        self,
        template: str,
        messages: Sequence[Message],
        tokens: Mapping[str, str],
        *,
        generation_prompt: bool = False,
        answers: bool = False,
    ) -> dict[str, Any]:
        request = {
            "template": template,
            "messages": [dict(message) for message in messages],
            "tokens": dict(tokens),
            "generation_prompt": generation_prompt,
            "answers": answers,
            "seconds": self._seconds,
        }
        with self._lock:
            process = self._running()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except (
                BaseException
            ) as error:  # also Ctrl-C: the answer to this request must not meet the next one
                self._end()
                if not isinstance(error, OSError):
                    raise
                line = b""
            if not line:
                self._end()
                raise ChatTemplateError(
                    f"the chat template took more than {self._seconds:g} seconds or too much memory: choose another "
                    "expert's template with --template, or repair it"
                )
        answer: dict[str, Any] = json.loads(line)
        if "text" not in answer:
            raise ChatTemplateError(
                f"the chat template refused the conversation: {printable(answer['error'], 200)}"
            )
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            # -I: nothing of the current folder or of Python's variables reaches the process.
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this program only
                env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
            )
        return self._process

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()
        self._process = None
