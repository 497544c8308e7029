"""PEFT's LoRA adapters as files: which of them are a plain low-rank sum, checked before anything is merged.

Everything is decided from the configuration and the header of the weights; no stranger's regular expression
is run.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.checkpoints.families import FLOAT_DTYPES, Family, family_of
from registry.checkpoints.preflight import ADAPTER_CONFIG, SMALL_FILES
from registry.checkpoints.safe_files import list_files, open_regular, parse_json, printable
from registry.checkpoints.tensors import INDEX_NAME, SINGLE_NAME, TensorInfo, read_header
from registry.checkpoints.tokenizers import tokenizer_mismatches
from registry.errors import IncompatibleError, InvalidInputError, UnsafeFileError
from registry.records import SeedRecord

CONFIG_FILE = ADAPTER_CONFIG
WEIGHTS_FILE = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 2**20
MAX_ALPHA = 1_000_000
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COPY_SUFFIX = re.compile(r"(-unsloth|-bnb|-4bit|-8bit|-gptq|-awq|-int4|-int8|-fp8|-bf16)+$")
REMEDY = "merge it with PEFT (`model.merge_and_unload().save_pretrained(folder)`) and contribute that folder"

# Fields that are read here, and fields that cannot change the sum: where it came from, how it was trained,
# which modules it adapts (the tensors say it too), and the layout of Conv1D, which no supported family has.
_READ = "peft_type bias r lora_alpha use_rslora rank_pattern alpha_pattern target_modules init_lora_weights"
_HARMLESS = """
    task_type auto_mapping peft_version base_model_name_or_path revision inference_mode runtime_config
    lora_dropout eva_config velora_config megatron_core qalora_group_size ensure_weight_tying
    layers_to_transform layers_pattern exclude_modules fan_in_fan_out"""
_KNOWN = frozenset(f"{_READ} {_HARMLESS}".split())
_REFUSED_BECAUSE = {
    "use_dora": "DoRA scales each output by a learned magnitude, which is no sum of two products",
    "modules_to_save": "it replaces whole modules beside the low-rank sums",
    "trainable_token_indices": "it replaces rows of the embedding",
    "lora_bias": "it adds biases, which the seed may not have",
    "target_parameters": "it adapts parameters that are no projections",
    "layer_replication": "it repeats blocks of the seed",
    "alora_invocation_tokens": "it acts on the tokens after its invocation only",
}
# Ways to begin that leave the seed as it is; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA take their start out of it.
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
_TENSOR_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# PEFT reads the keys of rank_pattern and alpha_pattern as regular expressions; strangers' ones are not run.
_LITERAL_KEY = re.compile(r"\^?[\w.\-]+")


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
    """Whether a folder holds a PEFT adapter rather than a model."""
    has = [(Path(folder) / name).exists() for name in (CONFIG_FILE, SINGLE_NAME, INDEX_NAME)]
    return has == [True, False, False]


def read_adapter(folder: Path) -> Adapter:
    """Read and check an adapter's configuration and the header of its weights.

    Raises NotFoundError, UnsafeFileError, InvalidInputError, IncompatibleError with every reason.
    """
    files = list_files(Path(folder))
    if CONFIG_FILE not in files:
        raise InvalidInputError(f"{folder}: no {CONFIG_FILE}; expected the folder of a PEFT adapter")
    if WEIGHTS_FILE not in files:
        raise InvalidInputError(
            f"{folder}: no {WEIGHTS_FILE}; other formats are never opened: save the adapter with "
            "`model.save_pretrained(folder, safe_serialization=True)`"
        )
    config = parse_json(_read_small(files[CONFIG_FILE], MAX_CONFIG_BYTES), str(files[CONFIG_FILE]))
    if not isinstance(config, dict):
        raise UnsafeFileError(f"{files[CONFIG_FILE]}: expected an object, got {printable(config)}")
    reasons = _refusals(config)
    if reasons:
        raise _incompatible(folder, reasons, remedy=REMEDY)
    infos = read_header(files[WEIGHTS_FILE])
    sums = _low_rank_sums(folder, config, infos)
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
        raise _incompatible(adapter.folder, reasons)
    return placed


def check_base(adapter: Adapter, seed: SeedRecord) -> None:
    """Compare the names of the adapter's base model and of the seed's checkpoint, where both are known.

    Only ids of the hub, "owner/name", are compared, by the name without a suffix of a quantised copy. Raises
    IncompatibleError for different ones.
    """
    base, own = (_hub_name(side) for side in (adapter.config.get("base_model_name_or_path"), _origin(seed)))
    if base and own and base != own:
        raise IncompatibleError(
            f"{adapter.folder.name} is an adapter of {printable(adapter.config['base_model_name_or_path'])}, but the "
            f"seed {seed.name} is {printable(_origin(seed))}; name the adapter's own seed, or allow it with "
            "--allow-unrelated"
        )


def _origin(seed: SeedRecord) -> Any:
    return seed.config.get("_name_or_path")


def _hub_name(reference: Any) -> str | None:
    """The name in "owner/name", in lower case and without what marks a quantised copy; None for anything else."""
    if not isinstance(reference, str) or not _HUB_ID.fullmatch(reference):
        return None
    return _COPY_SUFFIX.sub("", reference.split("/")[1].lower())


def check_tokenizer(seed_files: Mapping[str, bytes], folder: Path) -> None:
    """An adapter's folder may leave the tokenizer out; one that is there must be the seed's.

    Raises IncompatibleError with the first difference of each part, UnsafeFileError.
    """
    present = list_files(Path(folder))
    files = {
        name: _read_small(present[name], limit)
        for name, limit in SMALL_FILES.items()
        if name in present and name != "config.json"
    }
    mismatches = tokenizer_mismatches(seed_files, files) if "tokenizer.json" in files else []
    if mismatches:
        raise _incompatible(folder, mismatches)


def _refusals(config: Mapping[str, Any]) -> list[str]:
    """Every field of the configuration that says more than W + s · B A."""
    if config.get("peft_type") != "LORA":
        return [f"peft_type is {printable(config.get('peft_type'))}, expected LORA"]
    reasons = []
    if config.get("bias", "none") != "none":
        reasons.append(f"bias is {printable(config['bias'])}, expected none: it trains the seed's biases")
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        reasons.append(f"init_lora_weights is {printable(start)}, which changes the seed that it is added to")
    for field, value in config.items():
        # What belongs to another start than those above (loftq_config …) comes with it or is empty.
        if field not in _KNOWN and value:
            why = _REFUSED_BECAUSE.get(field, "this version does not know what it does")
            reasons.append(f"{printable(field)} is {printable(value)}: {why}")
    reasons += [
        f"{field} has the key {printable(key)}: only plain names of modules are read"
        for field in ("rank_pattern", "alpha_pattern")
        for key in _pattern(config, field)
        if not _LITERAL_KEY.fullmatch(key)
    ]
    return reasons


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
            sums[module] = LowRank(pair["A"], pair["B"], _scale(config, module))
    if not sides:
        reasons.append(f"{WEIGHTS_FILE} holds no tensors")
    reasons += [
        f"target_modules names {printable(target)}, for which there are no tensors"
        for target in _targets(config)
        if not any(_named(target, module) for module in sides)
    ]
    if reasons:
        raise _incompatible(folder, reasons)
    return sums


def _pair_fault(config: Mapping[str, Any], module: str, pair: Mapping[str, TensorInfo]) -> str | None:
    if len(pair) < 2:
        return f"lora_{'A' if 'B' in pair else 'B'} is missing"
    a, b = pair["A"], pair["B"]
    if any(len(info.shape) != 2 or info.dtype not in FLOAT_DTYPES for info in (a, b)):
        return "lora_A and lora_B must be float matrices"
    rank = _patterned(config, "rank_pattern", module, config.get("r"))
    if type(rank) is not int or rank < 1 or not a.shape[0] == b.shape[1] == rank:
        return f"the rank is {printable(rank)}, but A has {a.shape[0]} rows and B {b.shape[1]} columns"
    alpha = _patterned(config, "alpha_pattern", module, config.get("lora_alpha"))
    if type(alpha) not in (int, float) or not abs(alpha) <= MAX_ALPHA:
        return f"lora_alpha is {printable(alpha)}, expected a number of at most {MAX_ALPHA:,}"
    return None


def _scale(config: Mapping[str, Any], module: str) -> float:
    rank = _patterned(config, "rank_pattern", module, config.get("r"))
    alpha = _patterned(config, "alpha_pattern", module, config.get("lora_alpha"))
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _promised(config: Mapping[str, Any], stored: Mapping[str, TensorInfo]) -> list[str]:
    """The seed's projections that the configuration says it adapts, as far as it says it by plain names."""
    if config.get("layers_to_transform") is not None or config.get("exclude_modules"):
        return []
    return [
        name
        for name in stored
        for target in _targets(config)
        if name.endswith(".weight") and _named(target, name.removesuffix(".weight"))
    ]


def _tensor_name(family: Family, module: str) -> str:
    name = f"{module}.weight"
    return family.renamed.get(name, name)


def _targets(config: Mapping[str, Any]) -> list[str]:
    """The modules named one by one; a single string is a regular expression or a word for all, and is not run."""
    targets = config.get("target_modules")
    return [target for target in targets if isinstance(target, str)] if isinstance(targets, list) else []


def _named(name: str, module: str) -> bool:
    """Whether a name in the configuration means the module: its whole path or the end of it."""
    return module == name or module.endswith(f".{name}")


def _pattern(config: Mapping[str, Any], field: str) -> dict[str, Any]:
    pattern = config.get(field)
    return pattern if isinstance(pattern, dict) else {}


def _patterned(config: Mapping[str, Any], field: str, module: str, default: Any) -> Any:
    """The value of the first key that means the module; `^` binds a key to the whole path."""
    for key, value in _pattern(config, field).items():
        if module == key.removeprefix("^") or (not key.startswith("^") and _named(key, module)):
            return value
    return default


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _read_small(path: Path, limit: int) -> bytes:
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UnsafeFileError(f"{path}: more than {limit} bytes")
    return content


def _incompatible(folder: Path, reasons: list[str], remedy: str = "") -> IncompatibleError:
    more = f"; and {len(reasons) - 20} more" if len(reasons) > 20 else ""
    message = f"{Path(folder).name} cannot be merged into its seed: {'; '.join(reasons[:20])}{more}"
    return IncompatibleError(message + (f"; {remedy}" if remedy else ""), tuple(reasons))
