"""Tensor names of a mix. Blobs use the model family's own names; in a mix these have the prefix `language_model.`.

One trunk:     `…mlp.X` becomes `…mlp.shared.X` (the seed's FFN) or `…mlp.experts.<j>.X`.
Routed trunk:  `…q_proj.weight` becomes `…q_proj.choices.<base>.weight`, and a low-rank difference's `…q_proj.lora_A`
               becomes `…q_proj.choices.<base>.differences.<choice>.lora_A`.
"""

from __future__ import annotations

from registry.checkpoints.families import Family

PREFIX = "language_model."


def mlp_marker(family: Family) -> str:
    """Return the part of a tensor's name that says that it belongs to an FFN, such as `.mlp.`."""
    return family.mlp_path.rsplit("{i}", 1)[1] + "."


def name_in_mixture(family: Family, place: str, name: str) -> str:
    """Map the name `…mlp.X` of a dense model to its name in the mix: `language_model.…mlp.<place>.X`."""
    marker = mlp_marker(family)
    return PREFIX + name.replace(marker, f"{marker}{place}.", 1)


def router_name(family: Family, layer: int, name: str) -> str:
    """Return the name in the model of a tensor of a block's router."""
    return f"{PREFIX}{family.mlp_path.format(i=layer)}.router.{name}"


def context_name(name: str) -> str:
    """Return the name in the model of a context router's tensor: `router.filter` for `context.filter`."""
    return name.replace("context.", "router.", 1)


def name_in_base(family: Family, base: int, name: str) -> str:
    """Return a dense model's tensor name in a routed trunk: `language_model.….choices.<base>.…`."""
    marker = mlp_marker(family)
    if marker in name:
        return PREFIX + name.replace(marker, f"{marker}choices.{base}.", 1)
    layer, _, parameter = name.rpartition(".")
    return f"{PREFIX}{layer}.choices.{base}.{parameter}"


def difference_name(family: Family, base: int, choice: int, name: str) -> str:
    """Return the name in a routed trunk of a difference's `…lora_A` or `…lora_B`."""
    layer, _, parameter = name_in_base(family, base, name).rpartition(".")
    return f"{layer}.differences.{choice}.{parameter}"
