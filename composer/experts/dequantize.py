"""Dequantization of checkpoints whose format transformers can expand on a CPU, before they are checked and published.

Other formats need the library that wrote them, and often a GPU; preflight refuses them with the way out.
"""

from __future__ import annotations

import os
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from registry.checkpoints.preflight import DEQUANTIZED, quantization, read_config, read_small_files
from registry.checkpoints.safe_files import printable
from registry.checkpoints.tensors import read_checkpoint
from registry.errors import IncompatibleError
from registry.home import Registry
from registry.work_folders import occupied, work_folder


def float_folder(registry: Registry, folder: Path, stack: ExitStack) -> Path:
    """Return the folder itself, or a work folder with its weights in bfloat16; it exists until the stack is closed.

    The model is in memory while it is converted. Raises IncompatibleError if transformers cannot convert it.
    """
    method = quantization(read_config(folder)) if folder.is_dir() else None
    if method not in DEQUANTIZED:
        return folder
    read_checkpoint(folder)  # the headers are checked before a library reads them
    work = stack.enter_context(occupied(registry, work_folder(registry, f"float-{uuid.uuid4().hex}")))
    try:
        _convert(folder, work)
    except (ValueError, RuntimeError, ImportError, KeyError, AttributeError, TypeError, OSError) as error:
        raise IncompatibleError(
            f"{folder}: transformers cannot dequantize these {method} weights ({printable(str(error), 200)}); "
            "contribute the float model that they were made from"
        ) from error
    for name, content in read_small_files(folder).items():
        if name != "config.json":
            (work / name).write_bytes(content)
    return work


def _convert(folder: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config

    os.environ.setdefault("TQDM_DISABLE", "1")
    given = read_config(folder)["quantization_config"]
    block = given.get("weight_block_size")
    options: dict[str, Any] = {"weight_block_size": tuple(block)} if block else {}
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16,
        quantization_config=FineGrainedFP8Config(**options, dequantize=True),
        local_files_only=True,
        trust_remote_code=False,
    )
    left = [name for name, value in model.state_dict().items() if value.dtype != torch.bfloat16]
    if left:
        raise ValueError(f"{len(left)} tensors are not float, such as {left[0]}")
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(out)
