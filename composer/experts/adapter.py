"""PEFT's LoRA adapters as files: which of them are a plain low-rank sum, checked before anything is merged."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.experts.adapter_config import (
    echoed,
    incompatible,
    means,
    module_rank,
    pair_scale,
    read_config,
    read_small,
    targets,
)
from registry.checkpoints.families import FLOAT_DTYPES, Family, family_of
from registry.checkpoints.preflight import ADAPTER_CONFIG, SMALL_FILES, names_adapter
from registry.checkpoints.safe_files import list_files, open_regular, printable
from registry.checkpoints.tensors import TensorInfo, read_header
from registry.checkpoints.tokenizers import tokenizer_mismatches
from registry.errors import InvalidInputError
from registry.records import SeedRecord

WEIGHTS_FILE = "adapter_model.safetensors"

_TENSOR_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True)
class LowRank:
    """What is added to one projection: scale · B A."""

    a: TensorInfo  # [r, in]
    b: TensorInfo  # [out, r]
    scale: float


@dataclass(frozen=True)
class Adapter:
    """A checked adapter: its configuration, the sha256 of its weights, and its sums by the adapted module."""

    folder: Path
    config: dict[str, Any]
    sha256: str
    sums: dict[str, LowRank]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter rather than a model.

    Raises IncompatibleError for both in one folder.
    """
    folder = Path(folder)
    if not (folder / ADAPTER_CONFIG).exists():
        return False
    return names_adapter((path.name for path in folder.iterdir()), str(folder))


def read_adapter(folder: Path) -> Adapter:
    """Read and check an adapter's configuration, the header of its weights, and that they are not all zero.

    Raises NotFoundError, UnsafeFileError, InvalidInputError, IncompatibleError with every reason.
    """
    files = list_files(Path(folder))
    if ADAPTER_CONFIG not in files:
        raise InvalidInputError(f"{folder}: no {ADAPTER_CONFIG}; expected the folder of a PEFT adapter")
    if WEIGHTS_FILE not in files:
        raise InvalidInputError(
            f"{folder}: no {WEIGHTS_FILE}; other formats are never opened: save the adapter with "
            "`model.save_pretrained(folder, safe_serialization=True)`"
        )
    names_adapter(files, str(folder))
    config = read_config(files[ADAPTER_CONFIG])
    infos = read_header(files[WEIGHTS_FILE])
    sums = _low_rank_sums(folder, config, infos)
    if not any(_changes(low_rank) for low_rank in sums.values()):
        raise incompatible(
            Path(folder),
            ["it changes nothing: every lora_B, or every lora_A or lora_alpha, is zero"],
            "save it after its training",
        )
    return Adapter(Path(folder), config, _sha256(files[WEIGHTS_FILE]), sums)


def fitted(adapter: Adapter, seed: SeedRecord, stored: Mapping[str, TensorInfo]) -> dict[str, LowRank]:
    """The sums by the names of the seed's tensors, `stored`.

    Raises IncompatibleError listing all that find no place in the seed.
    """
    family = family_of(seed.config)
    placed: dict[str, LowRank] = {}
    reasons = []
    for module, low_rank in adapter.sums.items():
        name = _tensor_name(family, module)
        expected = (low_rank.b.shape[0], low_rank.a.shape[1])
        if name not in stored:
            reasons.append(f"seed {seed.name} has no {printable(name)}")
        elif stored[name].shape != expected:
            reasons.append(
                f"{printable(name)}: seed has {list(stored[name].shape)}, adapter {list(expected)}"
            )
        placed[name] = low_rank
    reasons += [
        f"{printable(name)} is adapted by the configuration, but not by the tensors"
        for name in _promised(adapter.config, stored)
        if name not in placed
    ]
    if reasons:
        raise incompatible(adapter.folder, reasons)
    return placed


def check_tokenizer(seed_files: Mapping[str, bytes], folder: Path) -> None:
    """An adapter's folder may leave the tokenizer out; one that is there must be the seed's.

    Raises IncompatibleError with the first difference of each part, UnsafeFileError.
    """
    present = list_files(Path(folder))
    files = {
        name: read_small(present[name], limit)
        for name, limit in SMALL_FILES.items()
        if name in present and name != "config.json"
    }
    mismatches = tokenizer_mismatches(seed_files, files) if "tokenizer.json" in files else []
    if mismatches:
        raise incompatible(Path(folder), mismatches)


def _low_rank_sums(
    folder: Path, config: Mapping[str, Any], infos: Mapping[str, TensorInfo]
) -> dict[str, LowRank]:
    """The pairs of A and B by module, each with its scale. Raises IncompatibleError listing what is no pair."""
    sides: dict[str, dict[str, TensorInfo]] = {}
    reasons = []
    for name, info in sorted(infos.items()):
        match = _TENSOR_NAME.fullmatch(name)
        if name.endswith(".base_layer.weight"):
            reasons.append(
                f"{printable(name)} is a whole tensor of the model beside its adapter: leave it out with "
                "`model.save_pretrained(folder, save_embedding_layers=False)`"
            )
        elif match is None:
            reasons.append(f"{printable(name)} is no lora_A or lora_B of a projection")
        else:
            sides.setdefault(match["module"], {})[match["side"]] = info
    sums = {}
    for module, pair in sides.items():
        fault = _pair_fault(config, module, pair)
        if fault:
            reasons.append(f"{printable(module)}: {fault}")
        else:
            sums[module] = LowRank(pair["A"], pair["B"], pair_scale(config, module))
    if not sides:
        reasons.append(f"{WEIGHTS_FILE} holds no tensors")
    missing = [name for name in targets(config) if not any(means(name, module) for module in sides)]
    if missing:
        reasons.append(f"target_modules names {echoed(missing)}, for which there are no tensors")
    if reasons:
        raise incompatible(Path(folder), reasons)
    return sums


def _pair_fault(config: Mapping[str, Any], module: str, pair: Mapping[str, TensorInfo]) -> str | None:
    if len(pair) < 2:
        return f"lora_{'A' if 'B' in pair else 'B'} is missing"
    a, b = pair["A"], pair["B"]
    if any(len(info.shape) != 2 or info.dtype not in FLOAT_DTYPES for info in (a, b)):
        return "lora_A and lora_B must be float matrices"
    rank = module_rank(config, module)
    if not a.shape[0] == b.shape[1] == rank:
        return f"the rank is {rank}, but A has {a.shape[0]} rows and B {b.shape[1]} columns"
    return None


def _changes(low_rank: LowRank) -> bool:
    """Whether s · B A can be anything but zero; A and B are read as far as their first number that is not."""
    return low_rank.scale != 0 and all(_any_nonzero(info) for info in (low_rank.b, low_rank.a))


def _any_nonzero(info: TensorInfo) -> bool:
    from composer.tensors.dtypes import decode
    from composer.tensors.stream import PIECE, read_stored

    return any(
        decode(read_stored(info, start, min(start + PIECE, info.parameters)), info.dtype).any()
        for start in range(0, info.parameters, PIECE)
    )


def _promised(config: Mapping[str, Any], stored: Mapping[str, TensorInfo]) -> list[str]:
    """The seed's projections that the configuration says it adapts, as far as it says it by plain names."""
    if config.get("layers_to_transform") is not None or config.get("exclude_modules"):
        return []
    return [
        name
        for name in stored
        for target in targets(config)
        if name.endswith(".weight") and means(target, name.removesuffix(".weight"))
    ]


def _tensor_name(family: Family, module: str) -> str:
    name = f"{module}.weight"
    return family.renamed.get(name, name)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
