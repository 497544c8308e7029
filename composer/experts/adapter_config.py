"""Reading of a LoRA adapter's configuration: a check that it is a plain low-rank sum, and its scale and rank.

The configuration is untrusted. Its regular expressions are never run, and each error message quotes only a few
hundred characters of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from registry.checkpoints.safe_files import open_regular, parse_json, printable, refuse_unwritable
from registry.errors import IncompatibleError, UnsafeFileError
from registry.records import SeedRecord

MAX_CONFIG_BYTES = 2**20
MERGE = "merge it with PEFT (`model.merge_and_unload().save_pretrained(folder)`) and contribute that folder"
SAVE_AGAIN = "save it again with PEFT (`model.save_pretrained(folder)`)"

# _READ: fields that are read here. _HARMLESS: fields that cannot change the sum. They describe the adapter's origin,
# its training, the adapted modules (the tensors show them too), and the layout of Conv1D, which no supported family
# uses.
_READ = """
    peft_type bias r lora_alpha use_rslora rank_pattern alpha_pattern target_modules init_lora_weights
    use_dora modules_to_save trainable_token_indices"""
_HARMLESS = """
    task_type auto_mapping peft_version base_model_name_or_path revision inference_mode runtime_config
    lora_dropout eva_config velora_config megatron_core qalora_group_size ensure_weight_tying
    layers_to_transform layers_pattern exclude_modules fan_in_fan_out"""
_KNOWN = frozenset(f"{_READ} {_HARMLESS}".split())
_REFUSED_BECAUSE = {
    "lora_bias": "it adds biases, which the seed may not have",
    "target_parameters": "it adapts parameters that are not projections",
    "layer_replication": "it repeats blocks of the seed",
    "alora_invocation_tokens": "it applies only to the tokens after its invocation",
}
_OF_THE_INPUT = (
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "ADAPTION_PROMPT",
    "CPT",
)
# Initialisations that do not change the seed. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA subtract theirs from it.
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
# PEFT reads the keys of rank_pattern and alpha_pattern as regular expressions. Untrusted ones are not run.
_LITERAL_KEY = re.compile(r"\^?[\w.\-]+")
_FLOAT32_MAX = (2 - 2**-23) * 2.0**127
_ECHO = 40  # maximum characters of one quoted value
_SHOWN = 4  # maximum reasons or names of a configuration in one message
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Name endings that mark other storage formats of the same weights, as quantisers and uploaders write them.
_STORAGE = re.compile(
    r"[-_.](unsloth|bnb|nf4|[48]bits?|int[48]|fp8|fp16|bf16|gptq|awq|gguf|hf|dynamic)", re.ASCII
)


def read_config(path: Path) -> dict[str, Any]:
    """Read and check an adapter's configuration.

    Raises NotFoundError, UnsafeFileError (not strict JSON), IncompatibleError (more than a low-rank sum, or
    fields of a wrong type).
    """
    config = parse_json(read_small(path, MAX_CONFIG_BYTES), str(path))
    refuse_unwritable(config, str(path))
    if not isinstance(config, dict):
        raise UnsafeFileError(f"{path}: expected an object, got {printable(config)}")
    if config.get("peft_type") in _OF_THE_INPUT:
        reason = f"peft_type is {config['peft_type']}, which learns an input and changes no weight"
        raise incompatible(
            path.parent, [reason], "train a LoRA adapter or the whole model, and contribute that"
        )
    reasons = _more_than_a_sum(config)
    if reasons:
        raise incompatible(path.parent, reasons, MERGE, shown=_SHOWN)
    reasons = _faults(config)
    if reasons:
        raise incompatible(path.parent, reasons, SAVE_AGAIN, shown=_SHOWN)
    return config


def check_base(config: Mapping[str, Any], folder: Path, seed: SeedRecord) -> None:
    """Refuse an adapter whose base model on the hub, or its revision, is not the seed's.

    Only hub ids are compared: a local path does not identify a model. Owners are ignored, because they copy and
    quantise each other's models. Raises IncompatibleError.
    """
    base, own = config.get("base_model_name_or_path"), seed.config.get("_name_or_path")
    if not _is_hub_id(base) or not _is_hub_id(own):
        return
    if _model_name(base) in (_model_name(own), _model_name(seed.name)):
        trained, commit = config.get("revision"), seed.config.get("_commit_hash")
        if base != own or not _is_commit(trained) or not _is_commit(commit) or trained == commit:
            return
        raise incompatible(
            folder,
            [
                f"it was trained on revision {trained[:12]} of {printable(base)}, but seed {seed.name} is {commit[:12]}"
            ],
            "contribute it to a seed of that revision; or, if both have the same weights, pass --allow-other-base "
            "(allow_other_base=True)",
        )
    raise incompatible(
        folder,
        [f"it was trained on {printable(base)}, but seed {seed.name} is {printable(own)}"],
        f"contribute it to a seed made from {printable(base)}; or, if both have the same weights, "
        "pass --allow-other-base (allow_other_base=True)",
    )


def pair_scale(config: Mapping[str, Any], module: str) -> float:
    """Return the scale s of a module's update: α / r, or α / √r if it is rank-stabilised."""
    rank = module_rank(config, module)
    alpha = _patterned(config, "alpha_pattern", module, config["lora_alpha"])
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def module_rank(config: Mapping[str, Any], module: str) -> int:
    """Return the rank r of a module's update."""
    return int(_patterned(config, "rank_pattern", module, config["r"]))


def trained_rows(config: Mapping[str, Any], module: str) -> tuple[int, ...]:
    """Return the token ids of the rows that `trainable_token_indices` replaces in a module, in ascending order."""
    given = config.get("trainable_token_indices")
    if isinstance(given, dict):
        given = next((each for name, each in given.items() if means(str(name), module)), [])
    return tuple(place for place in given if type(place) is int) if isinstance(given, list) else ()


def targets(config: Mapping[str, Any]) -> list[str]:
    """Return the modules that `target_modules` lists; empty for a single string.

    A single string is a regular expression or a keyword such as "all-linear"; it is never run.
    """
    named = config.get("target_modules")
    return list(named) if isinstance(named, list) else []


def means(name: str, module: str) -> bool:
    """Return whether a name in the configuration matches the module: its whole path or the end of the path."""
    return module == name or module.endswith(f".{name}")


def echoed(values: Iterable[object]) -> str:
    """Format the first few of a configuration's values for a message: printable and short."""
    values = list(values)
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(printable(value, _ECHO) for value in values[:_SHOWN]) + more


def incompatible(folder: Path, reasons: list[str], remedy: str = "", *, shown: int = 20) -> IncompatibleError:
    """Build the error for an adapter that cannot be merged, with at most `shown` reasons in its message."""
    more = f"; and {len(reasons) - shown} more" if len(reasons) > shown else ""
    message = f"{folder.name} cannot be merged into its seed: {'; '.join(reasons[:shown])}{more}"
    return IncompatibleError(message + (f"; {remedy}" if remedy else ""), tuple(reasons))


def read_small(path: Path, limit: int) -> bytes:
    """Read a file of at most `limit` bytes. Raises NotFoundError, UnsafeFileError."""
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UnsafeFileError(f"{path}: larger than the limit of {limit} bytes")
    return content


def _more_than_a_sum(config: Mapping[str, Any]) -> list[str]:
    """Return a reason for every field that asks for more than W + s · B A."""
    if config.get("peft_type") != "LORA":
        return [f"peft_type is {printable(config.get('peft_type'))}, expected LORA"]
    reasons = []
    if config.get("bias", "none") != "none":
        reasons.append(f"bias is {echoed([config['bias']])}, expected none: it changes the seed's biases")
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        reasons.append(
            f"init_lora_weights is {echoed([start])}: this initialisation changes the seed's weights"
        )
    for field, value in config.items():
        # Fields of other initialisations (loftq_config …) are empty unless that initialisation is used.
        if field not in _KNOWN and value:
            why = _REFUSED_BECAUSE.get(field, "this version of nexusmix does not know this field")
            reasons.append(f"{echoed([field])} is {echoed([value])}: {why}")
    for field in ("rank_pattern", "alpha_pattern"):
        keys = [key for key in _pattern(config, field) if not _LITERAL_KEY.fullmatch(key)]
        if keys:
            reasons.append(f"{field} has the key {echoed(keys)}: only plain module names are supported")
    return reasons


def _faults(config: Mapping[str, Any]) -> list[str]:
    """Return a reason for every field whose type or value PEFT never writes."""
    reasons = [
        f"{field} is {echoed([config[field]])}, expected {expected}"
        for field, fits, expected in (
            ("rank_pattern", isinstance(config.get("rank_pattern"), dict | None), "an object"),
            ("alpha_pattern", isinstance(config.get("alpha_pattern"), dict | None), "an object"),
            ("use_rslora", isinstance(config.get("use_rslora"), bool | None), "true or false"),
            ("target_modules", _names_modules(config.get("target_modules")), "module names"),
        )
        if not fits
    ]
    ranks = [config.get("r"), *_pattern(config, "rank_pattern").values()]
    alphas = [config.get("lora_alpha"), *_pattern(config, "alpha_pattern").values()]
    wrong = [rank for rank in ranks if type(rank) is not int or rank < 1]
    if wrong:
        reasons.append(f"the rank is {echoed(wrong)}, expected an integer ≥ 1 (r, rank_pattern)")
    # `type` is used because isinstance(True, int) is true. A comparison with NaN is false.
    wrong = [alpha for alpha in alphas if type(alpha) not in (int, float) or not abs(alpha) <= _FLOAT32_MAX]
    if wrong:
        reasons.append(f"lora_alpha is {echoed(wrong)}, expected a number (lora_alpha, alpha_pattern)")
    return reasons


def _names_modules(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(name, str) for name in value)
    return value is None or isinstance(value, str)


def _is_hub_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _HUB_ID.fullmatch(value) is not None


def _is_commit(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{40}", value) is not None


def _model_name(name: str) -> str:
    """Return a model's name in lower case, without its owner and without endings of storage formats."""
    return _STORAGE.sub("", name.rpartition("/")[2].lower())


def _pattern(config: Mapping[str, Any], field: str) -> dict[str, Any]:
    pattern = config.get(field)
    return pattern if isinstance(pattern, dict) else {}


def _patterned(config: Mapping[str, Any], field: str, module: str, default: Any) -> Any:
    """Return the value of the first key that matches the module; a key with `^` must be the whole path."""
    for key, value in _pattern(config, field).items():
        if module == key.removeprefix("^") or (not key.startswith("^") and means(key, module)):
            return value
    return default
