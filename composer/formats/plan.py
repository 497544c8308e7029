"""Plans of exports: a mix in one format before anything is written, and the parts that all formats share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from composer.chat.templates import adopted_template
from composer.formats import tokenizer
from composer.formats.folder import write_json, write_tensors
from composer.formats.quantize import Quantizer
from composer.mix.opening import Manifest, seed_config
from composer.progress import Progress
from composer.tensors.rows import Rows
from registry.blobs import BlobStore, read_files
from registry.checkpoints.dtypes import DTYPE_NAMES
from registry.records import Digest

DTYPES: Mapping[str, str] = {name: dtype for dtype, name in DTYPE_NAMES.items() if dtype != "F64"}

LOADING = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModelForCausalLM.from_pretrained("path/to/this/folder", dtype="auto")
prompt = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=40)[0], skip_special_tokens=True))
```

transformers 4.57 and 5 read this folder. vLLM reads Qwen2-MoE, and has an OpenAI-compatible API:

```sh
vllm serve path/to/this/folder
```

For llama.cpp and Ollama, export the mix with `--format gguf`.
"""

CHATTING = """\
The tokenizer has a chat template:

```python
messages = [{"role": "user", "content": "What is a matrix?"}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=40)[0], skip_special_tokens=True))
```
"""


class Writable(Protocol):
    """A mix in one format before it is written; `files` are its small files by name."""

    @property
    def dtype(self) -> str: ...
    @property
    def files(self) -> Mapping[str, bytes]: ...

    def write(self, folder: Path, *, max_shard_bytes: int, progress: Progress) -> int:
        """Write everything except `files` into `folder`. Returns the size of the tensors in bytes."""
        ...


@dataclass(frozen=True)
class Plan:
    """A Hugging Face folder: config.json, other files, and tensors in `dtype` (those named in `float32` in F32)."""

    config: dict[str, Any]
    tensors: dict[str, Rows]
    dtype: str
    float32: frozenset[str] = frozenset()
    files: dict[str, bytes] = field(default_factory=dict)

    def dtypes(self) -> dict[str, str]:
        """Return the dtype of each tensor on disk."""
        return {name: "F32" if name in self.float32 else self.dtype for name in self.tensors}

    def write(self, folder: Path, *, max_shard_bytes: int, progress: Progress) -> int:
        """Write the configuration and the tensors. Returns the size of the tensors in bytes."""
        write_json(folder / "config.json", self.config)
        return write_tensors(
            folder, self.tensors, self.dtypes(), max_shard_bytes=max_shard_bytes, progress=progress
        )


@dataclass(frozen=True)
class Format:
    """A format in which a mix can be written. `plan` raises ExportError if the format cannot express the mix.

    `dtypes` maps the dtype names of the command line to the format's names. `loading` is the part of the model card
    that explains how to run the model, `chatting` the part for models with a chat template. `library` is the hub's
    name of the software that reads it. `quantizer` finds the tool for the types that this project does not write;
    None: the format has no such types.
    """

    plan: Callable[[BlobStore, Manifest, str], Writable]
    dtypes: Mapping[str, str] = field(default_factory=lambda: DTYPES)
    loading: str = LOADING
    chatting: str = CHATTING
    library: str = "transformers"
    quantizer: Callable[[str], Quantizer] | None = None


def weight_blobs(manifest: Manifest) -> list[Digest]:
    """Return the blobs whose tensors an export reads."""
    experts = [digest for member in manifest.members for digest in member.weights]
    if manifest.routed_trunk:
        experts += [digest for member in manifest.members for digest in member.expert.weights]
    experts += [manifest.difference] if manifest.difference else []
    return list(dict.fromkeys([manifest.router, manifest.shared, *experts, manifest.trunk]))


def small_files(blobs: BlobStore, manifest: Manifest) -> dict[str, bytes]:
    """Return the seed's small files without config.json, and the chat template that the mix uses."""
    files = read_files(blobs, manifest.seed.files)
    config = seed_config(blobs, manifest.seed)
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    default = {name: config[name] for name in tokens if config.get(name) is not None}
    files.setdefault("generation_config.json", json.dumps(default, indent=2).encode())
    files[tokenizer.CONFIG_FILE] = tokenizer.portable_config(blobs, manifest)
    if (template := adopted_template(blobs, manifest)) is not None:
        files["chat_template.jinja"] = template.encode()
    return {name: content for name, content in files.items() if name != "config.json"}
