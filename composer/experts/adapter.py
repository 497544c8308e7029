"""Reading of PEFT LoRA adapters: files are checked to be a plain low-rank sum before anything is merged."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer.experts.adapter_config import (
    MERGE,
    echoed,
    incompatible,
    means,
    module_rank,
    pair_scale,
    read_config,
    targets,
    trained_rows,
)
from composer.experts.whole_adapter import Beyond, LowRank
from registry.checkpoints.descent import equal
from registry.checkpoints.families import FLOAT_DTYPES, Family, family_of
from registry.checkpoints.preflight import ADAPTER_CONFIG, SMALL_FILES, names_adapter, read_small_files
from registry.checkpoints.safe_files import list_files, open_regular, printable
from registry.checkpoints.tensors import TensorInfo, read_header
from registry.checkpoints.tokenizers import chat_template, tokenizer_mismatches
from registry.checkpoints.vocabulary import of_vocabulary
from registry.errors import InvalidInputError
from registry.records import SeedRecord

WEIGHTS_FILE = "adapter_model.safetensors"

_TENSOR_NAME = re.compile(
    r"base_model\.model\.(?P<module>.+?)\."
    r"(?:lora_(?P<side>[AB])\.weight|lora_embedding_(?P<embedding>[AB])|(?P<dora>lora_magnitude_vector)(?:\.weight)?"
    r"|(?P<rows>token_adapter\.trainable_tokens_delta)|(?:base_layer\.|modules_to_save\.)?(?P<saved>weight|bias))"
)


@dataclass(frozen=True)
class Adapter:
    """A checked adapter: its configuration, the sha256 of its weights, its low-rank updates by module, and the rest.

    The names in `beyond` are those of PEFT's modules with `.weight` or `.bias`.
    """

    folder: Path
    config: dict[str, Any]
    sha256: str
    sums: dict[str, LowRank]
    beyond: Beyond = field(default_factory=Beyond)


def is_adapter(folder: Path) -> bool:
    """Return whether a folder contains a PEFT adapter and not a model.

    Raises IncompatibleError if the folder contains both.
    """
    folder = Path(folder)
    if not (folder / ADAPTER_CONFIG).exists():
        return False
    return names_adapter((path.name for path in folder.iterdir()), str(folder))


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter; check its configuration, the header of its weights, and that it changes something.

    Raises NotFoundError, UnsafeFileError, InvalidInputError, and IncompatibleError with every reason.
    """
    files = list_files(Path(folder))
    if ADAPTER_CONFIG not in files:
        raise InvalidInputError(f"{folder}: no {ADAPTER_CONFIG}; expected the folder of a PEFT adapter")
    if WEIGHTS_FILE not in files:
        raise InvalidInputError(
            f"{folder}: no {WEIGHTS_FILE}; nexusmix opens no other format of weights: save the adapter with "
            "`model.save_pretrained(folder, safe_serialization=True)`"
        )
    names_adapter(files, str(folder))
    config = read_config(files[ADAPTER_CONFIG])
    infos = read_header(files[WEIGHTS_FILE])
    sums, beyond = _parts(folder, config, infos)
    if not beyond and not any(_changes(low_rank) for low_rank in sums.values()):
        raise incompatible(
            Path(folder),
            ["it changes nothing: in every pair, lora_A, lora_B or lora_alpha is zero"],
            "save the adapter after its training",
        )
    return Adapter(Path(folder), config, _sha256(files[WEIGHTS_FILE]), sums, beyond)


def fitted(adapter: Adapter, seed: SeedRecord, stored: Mapping[str, TensorInfo]) -> dict[str, LowRank]:
    """Return the low-rank updates by the name of the seed's tensor; `stored` are the seed's tensors.

    Raises IncompatibleError with every update that does not fit a tensor of the seed.
    """
    family = family_of(seed.config)
    placed: dict[str, LowRank] = {}
    reasons = []
    for module, low_rank in adapter.sums.items():
        name = _tensor_name(family, module)
        own = adapter.beyond.saved.get(f"{module}.weight", stored.get(name))
        if name not in stored:
            reasons.append(f"seed {seed.name} has no tensor {printable(name)}")
        elif own is not None and own.shape != low_rank.shape:
            reasons.append(
                f"{printable(name)}: the seed's shape is {list(own.shape)}, the adapter's {list(low_rank.shape)}"
            )
        placed[name] = low_rank
    reasons += [
        f"the configuration adapts {printable(name)}, but {WEIGHTS_FILE} has no tensors for it"
        for name in _promised(adapter.config, stored)
        if name not in placed
    ]
    if reasons:
        raise incompatible(adapter.folder, reasons)
    return placed


def refuse_tied(seed_name: str, adapter: Adapter, stored: Mapping[str, TensorInfo]) -> None:
    """Refuse a change of the embedding or the head where they are one tensor of the seed.

    PEFT changes one of them, and the merged model is not tied. Raises IncompatibleError.
    """
    names = {*(f"{module}.weight" for module in adapter.sums), *adapter.beyond.saved, *adapter.beyond.rows}
    ends = {name for name in names if ".embed_" in name or name == "lm_head.weight"}
    copies = {name: info for name, info in adapter.beyond.saved.items() if name in ends & stored.keys()}
    ends -= {name for name, info in copies.items() if equal({name: stored[name]}, {name: info})}
    if ends and "lm_head.weight" not in stored and "embed_out.weight" not in stored:
        raise incompatible(
            adapter.folder,
            [f"it changes {echoed(sorted(ends))}, and in seed {seed_name} embedding and head are one tensor"],
            f"make a seed where they are two with `nexusmix seed extend NEW --seed {seed_name} --untie`, and "
            "contribute to NEW",
        )


def fitted_beyond(adapter: Adapter, seed: SeedRecord, stored: Mapping[str, TensorInfo]) -> Beyond:
    """Return the parts beyond the sums by the name of the seed's tensor, without saved copies of the seed's tensors.

    Raises IncompatibleError with every part that does not fit a tensor of the seed.
    """
    family = family_of(seed.config)
    vocabulary = of_vocabulary(family)
    reasons = []

    def placed(name: str, shape: tuple[int, ...]) -> str:
        name = family.renamed.get(name, name)
        if name not in stored:
            reasons.append(f"seed {seed.name} has no tensor {printable(name)}")
        elif shape != stored[name].shape and not (name in vocabulary and shape[1:] == stored[name].shape[1:]):
            reasons.append(
                f"{printable(name)}: the seed's shape is {list(stored[name].shape)}, the adapter's {list(shape)}"
            )
        return name

    beyond = adapter.beyond
    saved = {placed(name, info.shape): info for name, info in beyond.saved.items()}
    magnitudes = {
        placed(name, (*info.shape, *adapter.sums[name.removesuffix(".weight")].a.shape[1:])): info
        for name, info in beyond.magnitudes.items()
    }
    rows = {}
    for name, (info, places) in beyond.rows.items():
        target = family.renamed.get(name, name)
        count = (
            saved[target].shape[0] if target in saved else stored[target].shape[0] if target in stored else 0
        )
        if not all(0 <= place < count for place in places):
            reasons.append(f"{printable(name)}: trainable_token_indices has a token beyond the {count} rows")
        rows[placed(name, (count, *info.shape[1:]))] = (info, places)
    if reasons:
        raise incompatible(adapter.folder, reasons)
    changed = {name: info for name, info in saved.items() if not equal({name: stored[name]}, {name: info})}
    return Beyond(magnitudes, changed, rows)


def check_tokenizer(seed_files: Mapping[str, bytes], folder: Path) -> None:
    """Check that the tokenizer in an adapter's folder, if there is one, is the seed's tokenizer.

    Raises UnsafeFileError, and IncompatibleError with the first difference of each part.
    """
    files = _small_files(folder)
    mismatches = tokenizer_mismatches(seed_files, files) if "tokenizer.json" in files else []
    if mismatches:
        raise incompatible(Path(folder), mismatches)


def template_in(folder: Path) -> str | None:
    """Return the chat template in an adapter's folder; None if there is none. Raises UnsafeFileError."""
    return chat_template(_small_files(folder))


def _small_files(folder: Path) -> dict[str, bytes]:
    return read_small_files(Path(folder), (name for name in SMALL_FILES if name != "config.json"))


def _parts(
    folder: Path, config: Mapping[str, Any], infos: Mapping[str, TensorInfo]
) -> tuple[dict[str, LowRank], Beyond]:
    """Return the pairs of A and B by module, each with its scale, and the parts beyond them.

    Raises IncompatibleError with every tensor that has no meaning here.
    """
    sides: dict[str, dict[str, TensorInfo]] = {}
    embedded: set[str] = set()
    magnitudes, saved, rows = {}, {}, {}
    reasons = []
    for name, info in sorted(infos.items()):
        match = _TENSOR_NAME.fullmatch(name)
        if (
            match is None
            or info.dtype not in FLOAT_DTYPES
            or (match["saved"] and ".lora_" in match["module"])
        ):
            reasons.append(f"{printable(name)} is not a part of a LoRA adapter that nexusmix can merge")
            continue
        module = match["module"]
        if match["side"] or match["embedding"]:
            sides.setdefault(module, {})[match["side"] or match["embedding"]] = info
            embedded |= {module} if match["embedding"] else set()
        elif match["dora"]:
            magnitudes[f"{module}.weight"] = info
        elif match["rows"]:
            rows[f"{module}.weight"] = (info, trained_rows(config, module))
        else:
            saved[f"{module}.{match['saved']}"] = info
    sums = {}
    for module, pair in sides.items():
        fault = _pair_fault(config, module, pair)
        if fault is None and f"{module}.weight" in magnitudes and module in embedded:
            fault = "DoRA of an embedding is not supported"
        if fault:
            reasons.append(f"{printable(module)}: {fault}")
        else:
            sums[module] = LowRank(pair["A"], pair["B"], pair_scale(config, module), module in embedded)
    if config.get("use_dora") and set(sums) != {name.removesuffix(".weight") for name in magnitudes}:
        reasons.append(f"use_dora is true, but {WEIGHTS_FILE} does not have one magnitude for each pair")
    reasons += [
        f"{printable(name)}: trainable_token_indices lists {len(places)} rows, the tensor has {info.shape}"
        for name, (info, places) in rows.items()
        if len(info.shape) != 2 or info.shape[0] != len(places)
    ]
    if not (sides or saved or rows):
        reasons.append(f"{WEIGHTS_FILE} contains no LoRA tensors")
    missing = [name for name in targets(config) if not any(means(name, module) for module in sides)]
    if missing:
        reasons.append(f"target_modules names {echoed(missing)}, but {WEIGHTS_FILE} has no tensors for them")
    if reasons:
        raise incompatible(Path(folder), reasons, MERGE)
    return sums, Beyond(magnitudes, saved, rows)


def _pair_fault(config: Mapping[str, Any], module: str, pair: Mapping[str, TensorInfo]) -> str | None:
    if len(pair) < 2:
        return f"lora_{'A' if 'B' in pair else 'B'} is missing"
    a, b = pair["A"], pair["B"]
    if any(len(info.shape) != 2 or info.dtype not in FLOAT_DTYPES for info in (a, b)):
        return "lora_A and lora_B must be float matrices"
    rank = module_rank(config, module)
    if not a.shape[0] == b.shape[1] == rank:
        return f"the rank is {rank}, but lora_A has {a.shape[0]} rows and lora_B has {b.shape[1]} columns"
    return None


def _changes(low_rank: LowRank) -> bool:
    """Return whether s · B A can be nonzero; A and B are each read up to the piece with a nonzero number."""
    return low_rank.scale != 0 and all(_any_nonzero(info) for info in (low_rank.b, low_rank.a))


def _any_nonzero(info: TensorInfo) -> bool:
    from composer.tensors.stream import PIECE, read_stored
    from registry.checkpoints.dtypes import decode

    return any(
        decode(read_stored(info, start, min(start + PIECE, info.parameters)), info.dtype).any()
        for start in range(0, info.parameters, PIECE)
    )


def _promised(config: Mapping[str, Any], stored: Mapping[str, TensorInfo]) -> list[str]:
    """Return the seed's projections that `target_modules` lists by plain names.

    Returns an empty list if the configuration also restricts layers or excludes modules.
    """
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
