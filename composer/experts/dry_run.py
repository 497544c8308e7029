"""Dry run: check that transformers can run a checkpoint's configuration and read its tokenizer.

The model is built on torch's meta device, which computes only shapes, so no memory is used for weights. The check
runs in a separate process: a tokenizer's regular expression may never finish, and native code may crash.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from registry.checkpoints.safe_files import printable
from registry.errors import IncompatibleError

TIME_LIMIT_SECONDS = 180.0
# Words, digits, non-ASCII symbols, and a run of letters on which an expression such as `(a+)+$` never finishes.
WORDS = "def run(x): return x + 1"
TEXT = f"{WORDS}  # Ünïcode, 42\n" + "a" * 64 + "!"
_VALUE_NEEDED = "cannot be called on meta tensors"
_OURS_TO_STOP = (KeyboardInterrupt, SystemExit, MemoryError)


def check_runs(folder: Path, *, time_limit: float = TIME_LIMIT_SECONDS) -> None:
    """Try the folder's model and tokenizer in a separate process, for at most `time_limit` seconds.

    No code from the folder is executed. Raises IncompatibleError with the cause in one line.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-P", "-m", "composer.experts.dry_run", str(folder.absolute())]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=time_limit
        )
    except subprocess.TimeoutExpired as error:
        raise IncompatibleError(
            f"{folder}: the model and tokenizer did not run within {time_limit:g} seconds; look in tokenizer.json for "
            "a regular expression that never finishes"
        ) from error
    answer = done.stdout.decode(errors="replace").splitlines()[-1:]
    if done.returncode or not answer:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise IncompatibleError(
            f"{folder}: the dry run ended with status {done.returncode}: {printable(last, 200)}; load the folder with "
            "transformers to see the whole error, and fix it"
        )
    cause = json.loads(answer[0])
    if cause is not None:
        raise IncompatibleError(cause)


def attempt(folder: Path) -> None:
    """Build the model without weights, run a few tokens through it, and encode and decode a short text.

    Everything runs in this process.

    Raises IncompatibleError with the cause in one line.
    """
    _attempt(folder, "the model of config.json does not run", _forward)
    _attempt(folder, "the tokenizer does not work", _tokenize)


def _attempt(folder: Path, fault: str, step: Any) -> None:
    try:
        step(folder)
    except _OURS_TO_STOP:
        raise
    except BaseException as error:  # a panic in the Rust code of tokenizers is not an Exception
        cause = f"{type(error).__name__}: {error}"
        raise IncompatibleError(
            f"{folder}: {fault} ({printable(cause, 200)}); load the folder with transformers to see the whole error, "
            "and fix it"
        ) from error


def _forward(folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        ids, mask = torch.zeros((1, 4), dtype=torch.long), torch.ones((1, 4), dtype=torch.long)
    try:
        with torch.no_grad():
            model(input_ids=ids, position_ids=ids, attention_mask=mask, use_cache=False)
    except RuntimeError as error:
        # Rotary embeddings that grow with the text read values, and the meta device has none.
        if _VALUE_NEEDED not in str(error):
            raise


def _tokenize(folder: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    ids = tokenizer(TEXT)["input_ids"]
    if not ids:
        raise ValueError("it encodes a non-empty text to no tokens")
    rows = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True).vocab_size
    if max(ids) >= rows:
        raise ValueError(f"it writes the id {max(ids)}, but the embedding has {rows} rows")
    back = str(tokenizer.decode(ids, skip_special_tokens=True))
    if _plain(WORDS) not in _plain(back):
        raise ValueError(f"it reads {WORDS!a} and writes {back!a}")


def _plain(text: str) -> str:
    """Return a text without spaces and case, which a tokenizer may change."""
    return "".join(text.casefold().split())


def _main(folder: Path) -> None:
    cause = None
    try:
        attempt(folder)
    except IncompatibleError as error:
        cause = str(error)
    sys.stdout.write(f"\n{json.dumps(cause)}\n")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
