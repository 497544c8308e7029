"""What a format makes of a mix before anything is written, and the parts that every format shares."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from composer.export import tokenizer
from composer.export.rows import Rows
from composer.mix import Manifest, seed_config
from composer.routers import ROUTERS
from composer.weights import read, stored_tensors
from registry.blobs import BlobStore
from registry.families import layer_count
from registry.records import Digest


@dataclass(frozen=True)
class Plan:
    """A folder to be written: config.json, the tensors in `dtype` (those of `float32` in float32), other files."""

    config: dict[str, Any]
    tensors: dict[str, Rows]
    dtype: torch.dtype
    float32: frozenset[str] = frozenset()
    files: dict[str, bytes] = field(default_factory=dict)

    def dtypes(self) -> dict[str, torch.dtype]:
        """The dtype of each tensor on disk."""
        return {name: torch.float32 if name in self.float32 else self.dtype for name in self.tensors}


Format = Callable[[BlobStore, Manifest, torch.dtype], Plan]
"""Plans the export of a mix in one format. Raises ExportError when the format cannot express it."""


def weight_blobs(manifest: Manifest) -> list[Digest]:
    """The blobs whose tensors an export reads."""
    experts = [member.ffn for member in manifest.members]
    return list(dict.fromkeys([manifest.router, manifest.shared, *experts, manifest.trunk]))


def small_files(blobs: BlobStore, manifest: Manifest) -> dict[str, bytes]:
    """The seed's small files but its configuration: tokenizer, chat template, generation settings."""
    files = {name: blobs.read_bytes(digest) for name, digest in manifest.seed.files.items()}
    config = seed_config(blobs, manifest.seed)
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    default = {name: config[name] for name in tokens if config.get(name) is not None}
    files.setdefault("generation_config.json", json.dumps(default, indent=2).encode())
    files[tokenizer.CONFIG_FILE] = tokenizer.portable_config(blobs, manifest)
    return {name: content for name, content in files.items() if name != "config.json"}


def gates(blobs: BlobStore, manifest: Manifest) -> Iterator[torch.Tensor]:
    """The linear gate [N, H] to which each block's router collapses, one block in memory at a time."""
    config = seed_config(blobs, manifest.seed)
    stored = stored_tensors(blobs, manifest.router)
    for layer in range(layer_count(config)):
        router = ROUTERS[manifest.router_kind](
            config["hidden_size"], manifest.domain_dim, len(manifest.members)
        )
        prefix = f"layers.{layer}."
        weights = {
            name.removeprefix(prefix): read(info, 0, info.parameters)
            for name, info in stored.items()
            if name.startswith(prefix)
        }
        router.load_state_dict(weights)
        with torch.no_grad():
            yield router.gate()
