"""Dry run: proof that transformers can run a checkpoint's configuration and read its tokenizer.

The model is built on torch's meta device, which computes shapes alone, so that this costs no memory for weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from registry.checkpoints.safe_files import printable
from registry.errors import IncompatibleError

TEXT = "def run(x): return x + 1  # Ünïcode, 42"
_VALUE_NEEDED = "cannot be called on meta tensors"
_OURS_TO_STOP = (KeyboardInterrupt, SystemExit, MemoryError)


def check_runs(folder: Path) -> None:
    """Build the model without weights, pass a few tokens forward, and round-trip a short text.

    Raises IncompatibleError with the cause in one line. Nothing of the folder is executed.
    """
    _attempt(folder, "the model of config.json does not run", _forward)
    _attempt(folder, "the tokenizer does not work", _tokenize)


def _attempt(folder: Path, fault: str, step: Any) -> None:
    try:
        step(folder)
    except _OURS_TO_STOP:
        raise
    except BaseException as error:  # a panic of the tokenizers' Rust code is no Exception
        cause = f"{type(error).__name__}: {error}"
        raise IncompatibleError(
            f"{folder}: {fault} ({printable(cause, 200)}); load the folder with transformers to see more, and mend it"
        ) from error


def _forward(folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        ids, mask = torch.zeros((1, 4), dtype=torch.long), torch.ones((1, 4), dtype=torch.long)
    try:
        with torch.no_grad():
            model(input_ids=ids, position_ids=ids, attention_mask=mask, use_cache=False)
    except RuntimeError as error:
        # Ropes that grow with the text look at values, of which the meta device has none.
        if _VALUE_NEEDED not in str(error):
            raise


def _tokenize(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    ids = tokenizer(TEXT)["input_ids"]
    if not ids:
        raise ValueError("a text becomes no tokens")
    tokenizer.decode(ids)
