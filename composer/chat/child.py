"""The process that renders chat templates, one JSON request per line. Run as a file, not imported.

The answers of a conversation are found as transformers does it: by the template's own {% generation %} markers, or else
as the difference between the conversation up to the question and up to the answer.

A template is a stranger's program. transformers runs it in Jinja's sandbox, which limits its reach. This process limits
its time and memory: the kernel ends it when a request takes too long.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any

MEMORY_BYTES = 256 * 2**20  # of a template, beyond the libraries
LONGEST_TEXT = 4 * 2**20
LONGEST_REASON = 500
MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


def main() -> None:
    """Answer each request with {"text": …} or {"error": reason}."""
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit_memory()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, even inside one long operation
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request.pop("seconds"))
        answer = _answer(render_jinja_template, request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _answer(render: Any, request: dict[str, Any]) -> dict[str, Any]:
    def rendered(messages: list[Any], **options: Any) -> tuple[str, Any]:
        texts, places = render(
            conversations=[messages], chat_template=request["template"], **request["tokens"], **options
        )
        if len(texts[0]) > LONGEST_TEXT:
            raise ValueError(f"its text has more than {LONGEST_TEXT} characters")
        return texts[0], places

    messages = request["messages"]
    try:
        if not request["answers"]:
            return {"text": rendered(messages, add_generation_prompt=request["generation_prompt"])[0]}
        if MARKED.search(request["template"]):
            text, places = rendered(messages, return_assistant_tokens_mask=True)
            return {"text": text, "answers": [list(place) for place in places[0]]}
        text, _ = rendered(messages)
        return {"text": text, "answers": _differences(rendered, messages, text)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:LONGEST_REASON]}


def _differences(rendered: Any, messages: list[Any], text: str) -> list[list[int]]:
    """Return the range of each answer in the text, with the token that ends it."""
    found: list[list[int]] = []
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        try:
            before = rendered(messages[:place], add_generation_prompt=True)[0]
            after = rendered(messages[: place + 1])[0]
        except Exception:  # a template may refuse a part of a conversation that it renders as a whole
            before, after = "", "\0"
        if text.startswith(after) and after.startswith(before):
            found.append([len(before), len(after)])
            continue
        # The template writes earlier turns differently: the answer is where its words are.
        content = message["content"].strip()
        start = text.find(content, found[-1][1] if found else 0)
        if start >= 0 and content:
            found.append([start, start + len(content)])
    return found


def _limit_memory() -> None:
    """Limit the address space, where the kernel knows its present size."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
