"""What a format makes of a mix before anything is written, and the parts that every format shares."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from composer.export import tokenizer
from composer.export.rows import Rows
from composer.mix import Manifest, seed_config
from registry.blobs import BlobStore, read_files
from registry.records import Digest


@dataclass(frozen=True)
class Plan:
    """A folder to be written: config.json, the tensors in `dtype` (those of `float32` in F32), other files."""

    config: dict[str, Any]
    tensors: dict[str, Rows]
    dtype: str
    float32: frozenset[str] = frozenset()
    files: dict[str, bytes] = field(default_factory=dict)

    def dtypes(self) -> dict[str, str]:
        """The dtype of each tensor on disk."""
        return {name: "F32" if name in self.float32 else self.dtype for name in self.tensors}


Format = Callable[[BlobStore, Manifest, str], Plan]
"""Plans the export of a mix in one format. Raises ExportError when the format cannot express it."""


def weight_blobs(manifest: Manifest) -> list[Digest]:
    """The blobs whose tensors an export reads."""
    experts = [member.ffn for member in manifest.members]
    return list(dict.fromkeys([manifest.router, manifest.shared, *experts, manifest.trunk]))


def small_files(blobs: BlobStore, manifest: Manifest) -> dict[str, bytes]:
    """The seed's small files but its configuration: tokenizer, chat template, generation settings."""
    files = read_files(blobs, manifest.seed.files)
    config = seed_config(blobs, manifest.seed)
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    default = {name: config[name] for name in tokens if config.get(name) is not None}
    files.setdefault("generation_config.json", json.dumps(default, indent=2).encode())
    files[tokenizer.CONFIG_FILE] = tokenizer.portable_config(blobs, manifest)
    return {name: content for name, content in files.items() if name != "config.json"}
