"""Assignment of a checkpoint's tensors to roles, from the families table and the configuration."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from registry.checkpoints.family import Family
from registry.checkpoints.family_table import FAMILIES
from registry.checkpoints.safe_files import printable
from registry.checkpoints.tensors import TensorInfo
from registry.errors import IncompatibleError, UnmappedTensorError, UnsupportedFamilyError

__all__ = ["FAMILIES", "Family", "Roles", "assign_roles", "expected_tensors", "family_of", "layer_count"]

FLOAT_DTYPES = ("F16", "BF16", "F32", "F64")
_SHOWN = 20
_WRAPPERS = re.compile(r"^module\.|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")


@dataclass(frozen=True)
class Roles:
    """A checkpoint split by role: canonical names mapped to the tensors' locations.

    `ffn_width` is the inner width of the FFNs. `tied` contains a pair (dropped head, kept embedding) if the
    checkpoint stores a tied head twice. `wrappers` are the parts of names that were removed (see `unwrapped`).
    """

    ffn: dict[str, TensorInfo]
    trunk: dict[str, TensorInfo]
    ffn_width: int
    tied: tuple[tuple[TensorInfo, TensorInfo], ...] = ()
    wrappers: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of weights in both roles."""
        return sum(info.parameters for info in (*self.ffn.values(), *self.trunk.values()))

    @property
    def dtype(self) -> str:
        """Safetensors dtype of most weights."""
        counts: dict[str, int] = {}
        for info in (*self.ffn.values(), *self.trunk.values()):
            counts[info.dtype] = counts.get(info.dtype, 0) + info.parameters
        return max(sorted(counts), key=lambda dtype: counts[dtype])


def family_of(config: Mapping[str, Any]) -> Family:
    """Return a configuration's family by its `model_type`. Raises UnsupportedFamilyError."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UnsupportedFamilyError(
            f"model_type {printable(model_type)} is not supported; expected one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


def layer_count(config: Mapping[str, Any]) -> int:
    """Return the number of decoder blocks. Raises IncompatibleError if the field is missing or out of range."""
    return positive("num_hidden_layers", config.get("num_hidden_layers"), limit=4096)


def expected_tensors(
    family: Family, config: Mapping[str, Any], ffn_width: int
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Return canonical names and shapes of the ffn and trunk roles, for FFNs of the given inner width."""
    symbols = {**dimensions(family, config), "f": ffn_width}
    layers = layer_count(config)
    ffn, trunk = (
        {
            name: tuple(_dimension(term, symbols) for term in shape.split())
            for template, spec in role.items()
            if (shape := _shape_if_present(spec, family, config))
            for name in _names(template, layers)
        }
        for role in (family.ffn, family.trunk)
    )
    return ffn, trunk


def assign_roles(family: Family, config: Mapping[str, Any], infos: Mapping[str, TensorInfo]) -> Roles:
    """Assign every tensor to its role and check its shape against the configuration.

    The FFN width is read from the tensors, because an expert's width may differ from the seed's. Buffers that
    no model reads and the second copy of a tied head are dropped.

    Raises UnmappedTensorError (lists all tensors that have no role or are missing), IncompatibleError (lists
    all wrong shapes and dtypes).
    """
    plain, wrappers = unwrapped(infos)
    named = {
        family.renamed.get(name, name): info
        for name, info in plain.items()
        if not any(re.fullmatch(pattern, name) for pattern in family.ignorable)
    }
    tied = _drop_tied_head(family, config, named)
    width = _ffn_width(family, named)
    ffn, trunk = expected_tensors(family, config, width)
    expected = {**ffn, **trunk}
    _refuse_unmapped(family, named.keys() - expected.keys(), expected.keys() - named.keys())
    mismatches = [
        f"{printable(name)}: expected shape {list(shape)}, got {list(named[name].shape)}"
        for name, shape in expected.items()
        if named[name].shape != shape
    ] + [
        f"{printable(name)}: expected a dtype of {', '.join(FLOAT_DTYPES)}, got {named[name].dtype}"
        for name in expected
        if named[name].dtype not in FLOAT_DTYPES
    ]
    if mismatches:
        raise IncompatibleError(
            f"{len(mismatches)} tensors do not fit the configuration: {_first(mismatches)}", tuple(mismatches)
        )
    roles = ({name: named[name] for name in ffn}, {name: named[name] for name in trunk})
    return Roles(*roles, width, tied, wrappers)


def unwrapped(infos: Mapping[str, TensorInfo]) -> tuple[dict[str, TensorInfo], tuple[str, ...]]:
    """Return tensors without the names that PyTorch's wrappers add, and these names.

    torch.compile, DistributedDataParallel, FSDP and activation checkpointing wrap modules, and a model that was saved
    without unwrapping it has their names in those of its tensors. Raises UnmappedTensorError if two tensors then have
    one name.
    """
    plain: dict[str, TensorInfo] = {}
    found: set[str] = set()
    for name, info in infos.items():
        bare = _WRAPPERS.sub("", name)
        if bare in plain:
            reason = f"{printable(name)}: another tensor has the name {printable(bare)} without its wrappers"
            raise UnmappedTensorError(f"{reason}; save the model from its inner module", (reason,))
        found.update(_WRAPPERS.findall(name))
        plain[bare] = info
    return plain, tuple(sorted(found))


def _drop_tied_head(
    family: Family, config: Mapping[str, Any], named: dict[str, TensorInfo]
) -> tuple[tuple[TensorInfo, TensorInfo], ...]:
    embedding = next(name for name in family.trunk if ".embed_" in name)
    if not field(family, config, "tie_word_embeddings") or embedding not in named:
        return ()
    head = named.pop("lm_head.weight", None)
    return ((head, named[embedding]),) if head is not None else ()


def _ffn_width(family: Family, named: Mapping[str, TensorInfo]) -> int:
    """Return the width f from the first FFN tensor of block 0 whose shape contains it; 0 if there is none."""
    for template, spec in family.ffn.items():
        info = named.get(template.format(i=0))
        for axis, term in enumerate(spec.split(" if ")[0].split()):
            if "f" in term and info is not None and len(info.shape) > axis:
                return info.shape[axis] // _dimension(term, {"f": 1})
    return 0


def _refuse_unmapped(family: Family, unmapped: set[str], missing: set[str]) -> None:
    if not unmapped and not missing:
        return
    reasons = [f"no role for {printable(name)}" for name in sorted(unmapped)]
    reasons += [f"missing {printable(name)}" for name in sorted(missing)]
    raise UnmappedTensorError(
        f"not the tensors of a {family.model_type} model ({len(unmapped)} without a role, {len(missing)} "
        f"missing): {_first(reasons)}",
        tuple(reasons),
    )


def _first(reasons: list[str]) -> str:
    more = len(reasons) - _SHOWN
    return "; ".join(reasons[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def field(family: Family, config: Mapping[str, Any], name: str) -> Any:
    """Return a configuration field, or the family's default if it is absent."""
    return config[name] if name in config else family.defaults.get(name)


def dimensions(family: Family, config: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes h, v, n, m and d of a configuration. Raises IncompatibleError for an invalid size."""
    hidden = positive("hidden_size", config.get("hidden_size"))
    heads = positive("num_attention_heads", config.get("num_attention_heads"))
    return {
        "h": hidden,
        "v": positive("vocab_size", config.get("vocab_size")),
        "n": heads,
        "m": positive("num_key_value_heads", field(family, config, "num_key_value_heads") or heads),
        "d": positive("head_dim", field(family, config, "head_dim") or hidden // heads),
    }


def positive(name: str, value: object, *, least: int = 1, limit: int = 2**31) -> int:
    """Return a value that must be an integer in a range. Raises IncompatibleError otherwise."""
    if type(value) is not int or not least <= value <= limit:
        raise IncompatibleError(
            f"config.json: {name} must be an integer from {least} to {limit}, got {printable(value)}"
        )
    return value


def _shape_if_present(spec: str, family: Family, config: Mapping[str, Any]) -> str | None:
    shape, _, flag = spec.partition(" if ")
    if flag:
        return shape if field(family, config, flag) else None
    shape, _, flag = spec.partition(" unless ")
    return None if flag and field(family, config, flag) else shape


def _names(template: str, layers: int) -> Iterator[str]:
    if "{i}" not in template:
        yield template
        return
    for layer in range(layers):
        yield template.format(i=layer)


def _dimension(expression: str, symbols: Mapping[str, int]) -> int:
    """Evaluate a sum of products such as "n*d+2*m*d"."""
    return sum(
        math.prod(int(factor) if factor.isdigit() else symbols[factor] for factor in product.split("*"))
        for product in expression.split("+")
    )
