"""Preflight: check a checkpoint from its headers and JSON files, without reading its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.checkpoints.configs import config_mismatches
from registry.checkpoints.families import Family, Roles, assign_roles, family_of, field
from registry.checkpoints.safe_files import list_files, open_regular, parse_json, printable
from registry.checkpoints.tensors import INDEX_NAME, SINGLE_NAME, TensorInfo, read_checkpoint
from registry.checkpoints.tokenizers import largest_id, tokenizer_mismatches
from registry.checkpoints.vocabulary import token_rows
from registry.errors import IncompatibleError, InvalidInputError, UnsafeFileError
from registry.records import SeedRecord

# Small files that are stored with a seed, and their maximum sizes in bytes.
SMALL_FILES: Mapping[str, int] = {
    **dict.fromkeys(("config.json", "generation_config.json", "special_tokens_map.json"), 4 * 2**20),
    **dict.fromkeys(("tokenizer_config.json", "added_tokens.json", "chat_template.jinja"), 16 * 2**20),
    **dict.fromkeys(("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"), 128 * 2**20),
}
ADAPTER_CONFIG = "adapter_config.json"
# Quantization methods that composer/experts/dequantize.py expands.
DEQUANTIZED = ("fp8",)
# The way out for a head of its own, where the seed's head is its embedding.
UNTIE = "contribute it to a seed where they are two tensors: `nexusmix seed extend NEW --seed SEED --untie` makes one"
# The way out for a tied expert of a seed whose head is a tensor of its own.
OWN_HEAD = (
    "save it with a head of its own: `model.config.tie_word_embeddings = False; model.lm_head.weight = "
    "torch.nn.Parameter(model.get_input_embeddings().weight.clone()); model.save_pretrained(folder)`"
)
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder that passed the checks: configuration, contents of small files, and tensors by role."""

    folder: Path
    config: dict[str, Any]
    family: Family
    files: dict[str, bytes]
    roles: Roles
    rows: list[int] | None = None  # of the embedding, where they are not in the seed's places: vocabulary.py


def names_adapter(names: Iterable[str], source: str) -> bool:
    """Return whether a source with these file names is a PEFT adapter rather than a model.

    Raises IncompatibleError if it is both, because one of them would be ignored silently.
    """
    names = set(names)
    if ADAPTER_CONFIG not in names:
        return False
    model = sorted(name for name in names if name in (SINGLE_NAME, INDEX_NAME) or _SHARD.fullmatch(name))
    if model:
        raise IncompatibleError(
            f"{source}: both a model ({model[0]}) and an adapter ({ADAPTER_CONFIG}); contribute a folder with "
            f"one of them: move {ADAPTER_CONFIG} and adapter_model.safetensors into a folder of their own to "
            "contribute the adapter, or remove them to contribute the model"
        )
    return True


def check_seed(folder: Path) -> Checkpoint:
    """Check a seed's folder. Weights are not read, except a tied head that is stored twice.

    Raises NotFoundError, UnsafeFileError, InvalidInputError (no tokenizer), IncompatibleError or a subclass of it.
    """
    files, config = _read_small_files(folder)
    if "tokenizer.json" not in files:
        raise InvalidInputError(
            f"{folder}: no tokenizer.json; write one with transformers: `tokenizer.save_pretrained(folder)`"
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if name in files:
            parse_json(files[name], str(folder / name))
    family = family_of(config)
    roles = _roles(folder, family, config)
    beyond = _ids_beyond_embedding(family, config, files)
    if beyond:
        raise IncompatibleError(f"{folder}: {beyond}", (beyond,))
    return Checkpoint(folder, config, family, files, roles)


def check_expert(seed: SeedRecord, seed_files: Mapping[str, bytes], folder: Path) -> Checkpoint:
    """Check an expert's folder against its seed; `seed_files` are the contents of the seed's small files.

    Raises NotFoundError, UnsafeFileError, and one IncompatibleError whose `mismatches` lists every reason:
    configuration fields, tokenizer parts and tensors.
    """
    files, config = _read_small_files(folder)
    family = family_of(config)
    way_out = UNTIE if field(family, seed.config, "tie_word_embeddings") else OWN_HEAD
    mismatches = [
        f"{mismatch}: {way_out}" if "tie_word_embeddings" in mismatch else mismatch
        for mismatch in config_mismatches(family, seed.config, config)
    ]
    mismatches += tokenizer_mismatches(seed_files, files)
    try:
        roles = _roles(folder, family, config)
    except IncompatibleError as error:
        if not mismatches:
            raise
        raise _incompatible(seed, folder, [*mismatches, *(error.mismatches or (str(error),))]) from error
    if not mismatches and (beyond := _ids_beyond_embedding(family, config, files)):
        mismatches.append(beyond)
    if mismatches:
        raise _incompatible(seed, folder, mismatches)
    sizes = (field(family, each, "vocab_size") for each in (seed.config, config))
    return Checkpoint(folder, config, family, files, roles, token_rows(seed_files, files, *sizes))


def _ids_beyond_embedding(
    family: Family, config: Mapping[str, Any], files: Mapping[str, bytes]
) -> str | None:
    """Return the reason why a tokenizer's ids do not fit the embedding; None if they fit."""
    largest, rows = largest_id(files), field(family, config, "vocab_size")
    if largest < rows:
        return None
    return (
        f"tokenizer.json has the token id {largest}, but the embedding has {rows} rows; remove the added tokens, or "
        "resize before training: `model.resize_token_embeddings(len(tokenizer))`"
    )


def _incompatible(seed: SeedRecord, folder: Path, mismatches: list[str]) -> IncompatibleError:
    return IncompatibleError(
        f"{folder.name} is not an expert of seed {seed.name}: {'; '.join(mismatches)}", tuple(mismatches)
    )


def _read_small_files(folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    present = list_files(folder)
    names_adapter(present, str(folder))
    if "config.json" not in present:
        raise InvalidInputError(f"{folder}: no config.json; expected a Hugging Face model folder")
    files = read_small_files(folder)
    config = parse_json(files["config.json"], str(folder / "config.json"))
    if not isinstance(config, dict):
        raise UnsafeFileError(f"{folder / 'config.json'}: expected an object, got {printable(config)}")
    _refuse_custom_code(folder, files)
    method = quantization(config)
    if method is not None:
        raise IncompatibleError(
            f"{folder}: the weights are quantized ({printable(method, 40)}), expected float weights: contribute the "
            "model that they were made from, or dequantize them where their library runs: "
            "`AutoModelForCausalLM.from_pretrained(folder).dequantize().save_pretrained(new)`"
        )
    return files, config


def read_config(folder: Path) -> Any:
    """Return the content of a folder's config.json; {} if there is none. Raises NotFoundError, UnsafeFileError."""
    files = read_small_files(folder, ("config.json",))
    return parse_json(files["config.json"], str(folder / "config.json")) if files else {}


def is_dequantized(folder: Path) -> bool:
    """Return whether a folder's weights are quantized in a way that is expanded before they are checked."""
    return quantization(read_config(folder)) in DEQUANTIZED


def quantization(config: Any) -> str | None:
    """Return the method by which a configuration says that the weights are quantized; None if they are not."""
    settings = config.get("quantization_config") if isinstance(config, dict) else None
    if not settings:
        return None
    return str(settings.get("quant_method")) if isinstance(settings, dict) else str(settings)


def read_small_files(folder: Path, names: Iterable[str] = SMALL_FILES) -> dict[str, bytes]:
    """Return the contents of a folder's small files with these names. Raises NotFoundError, UnsafeFileError."""
    present = list_files(folder)
    return {name: _read(present[name], SMALL_FILES[name]) for name in names if name in present}


def _refuse_custom_code(folder: Path, files: Mapping[str, bytes]) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        content = parse_json(files[name], str(folder / name)) if name in files else {}
        if isinstance(content, dict) and content.get("auto_map"):
            raise UnsafeFileError(
                f"{folder / name}: auto_map asks for custom code, which is never executed; remove the field "
                "if the model is the stock architecture of its model_type"
            )


def _read(path: Path, limit: int) -> bytes:
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UnsafeFileError(f"{path}: more than {limit} bytes")
    return content


def _roles(folder: Path, family: Family, config: Mapping[str, Any]) -> Roles:
    roles = assign_roles(family, config, read_checkpoint(folder))
    stated = config.get("intermediate_size", roles.ffn_width)
    if stated != roles.ffn_width:
        reason = (
            f"config.json: intermediate_size is {printable(stated)}, but the tensors have {roles.ffn_width}"
        )
        raise IncompatibleError(f"{folder}: {reason}", (reason,))
    for head, embedding in roles.tied:
        if head.dtype != embedding.dtype or not _equal_bytes(head, embedding):
            reason = "tie_word_embeddings is true, yet lm_head.weight differs from the embedding"
            raise IncompatibleError(f"{folder}: {reason}; set it to false, and {UNTIE}", (reason,))
    return roles


def _equal_bytes(one: TensorInfo, other: TensorInfo) -> bool:
    """Return whether two tensors have the same bytes; used for a head stored twice, the only check that reads data."""
    if one.nbytes != other.nbytes:
        return False
    with open_regular(one.path) as first, open_regular(other.path) as second:
        first.seek(one.start)
        second.seek(other.start)
        left = one.nbytes
        while left:
            size = min(left, _CHUNK_BYTES)
            if first.read(size) != second.read(size):
                return False
            left -= size
    return True
