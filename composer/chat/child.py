"""The process that renders chat templates, one JSON request per line. Run as a file, not imported.

A template is a stranger's program. transformers runs it in Jinja's sandbox, which limits its reach. This process limits
its time and memory: the kernel ends it when a request takes too long.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any

MEMORY_BYTES = 256 * 2**20  # of a template, beyond the libraries
LONGEST_TEXT = 4 * 2**20
LONGEST_REASON = 500


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


def _answer(render: Any, request: dict[str, Any]) -> dict[str, str]:
    try:
        texts, _ = render(
            conversations=[request["messages"]],
            chat_template=request["template"],
            add_generation_prompt=request["generation_prompt"],
            **request["tokens"],
        )
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:LONGEST_REASON]}
    if len(texts[0]) > LONGEST_TEXT:
        return {"error": f"its text has more than {LONGEST_TEXT} characters"}
    return {"text": texts[0]}


def _limit_memory() -> None:
    """Limit the address space, where the kernel knows its present size."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
