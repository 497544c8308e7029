"""Compression of a full fine-tune to a LoRA adapter, by truncated singular value decompositions.

    W_expert − W_seed ≈ B A        A [R, in] = √S Vᵀ, B [out, R] = U √S, of the R largest singular values S

It is the best approximation of rank R (Eckart and Young, 1936). Changes of embeddings, norms and biases are left out.
Shape suffixes: O out, I in, R rank.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from composer.errors import RecipeError
from composer.experts.adapter import WEIGHTS_FILE, is_adapter, template_in
from composer.formats.folder import new_folder, refuse_existing
from composer.progress import Progress, silent
from composer.tensors.stream import read, stored_tensors
from registry.blobs import read_files
from registry.catalog import queries
from registry.checkpoints.preflight import ADAPTER_CONFIG, check_expert
from registry.checkpoints.tensors import TensorInfo
from registry.errors import IncompatibleError
from registry.home import Registry
from registry.paths import PathLike, as_path

SPARE = 16  # directions beyond the rank, and passes over a matrix, of the randomised decomposition (arXiv 0909.4061)
PASSES = 4


@dataclass(frozen=True)
class Compression:
    """An adapter in place of a full fine-tune.

    `kept` and `kept_of_projections` are shares of the squared change, of all weights and of the projections alone.
    """

    folder: Path
    rank: int
    kept: float
    kept_of_projections: float
    bytes: int


def compress(
    registry: Registry,
    seed_name: str,
    expert: PathLike,
    out: PathLike,
    *,
    rank: int = 64,
    progress: Progress = silent,
) -> Compression:
    """Write the folder of an expert's checkpoint as a PEFT adapter of its seed to the new folder `out`.

    Each projection that changed gets a low-rank difference; one is in memory at a time. Equal inputs give equal bytes.

    Raises NotFoundError, ConflictError, RecipeError, and the errors of `registry.checkpoints.preflight.check_expert`.
    Raises IncompatibleError for FFNs of another width than the seed's, and if no projection changed.
    """
    expert, out = as_path(expert), as_path(out)
    if rank < 1:
        raise RecipeError(f"the rank is {rank}, expected at least 1")
    refuse_existing(out)
    if is_adapter(expert):
        raise RecipeError(f"{expert} is an adapter already; contribute it as it is")
    seed = queries.get_seed(registry, seed_name)
    checkpoint = check_expert(seed, read_files(registry.blobs, seed.files), expert)
    named = {new: old for old, new in checkpoint.family.renamed.items()}
    changed = projections = kept = 0.0
    tensors: dict[str, torch.Tensor] = {}
    pairs = list(_pairs(registry, seed.ffn, seed.trunk, {**checkpoint.roles.ffn, **checkpoint.roles.trunk}))
    for done, (name, before, after) in enumerate(pairs):
        progress("compressing", done, len(pairs))
        if before.shape != after.shape:
            raise IncompatibleError(
                f"{expert}: {name} is {list(after.shape)} and the seed's {list(before.shape)}, so no adapter of the "
                "seed can replace it: contribute the checkpoint as it is"
            )
        difference = torch.from_numpy(read(after, 0, after.parameters) - read(before, 0, before.parameters))
        square = float(difference.square().sum())
        changed += square
        if not square or not _is_projection(name, before):
            continue
        a_RI, b_OR, part = low_rank(difference, rank)
        projections, kept = projections + square, kept + part
        module = f"base_model.model.{named.get(name, name).removesuffix('.weight')}"
        tensors |= {f"{module}.lora_A.weight": a_RI, f"{module}.lora_B.weight": b_OR}
    progress("compressing", len(pairs), len(pairs))
    if not tensors:
        raise IncompatibleError(
            f"{expert}: no projection differs from the seed's, so there is nothing to adapt"
        )
    with new_folder(registry, out) as folder:
        _write(folder, tensors, template_in(expert))
    size = (out / WEIGHTS_FILE).stat().st_size
    return Compression(out, rank, kept / changed, kept / projections, size)


def low_rank(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return A [R, I], B [O, R] and ‖BA‖² of the best approximation of a matrix [O, I]; R is at most O and I."""
    rank = min(rank, *matrix.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        u_OR, s_R, v_IR = torch.svd_lowrank(matrix, q=min(rank + SPARE, *matrix.shape), niter=PASSES)
    root_R = s_R[:rank].sqrt()
    a_RI, b_OR = (v_IR[:, :rank] * root_R).T.contiguous(), (u_OR[:, :rank] * root_R).contiguous()
    return a_RI, b_OR, float(s_R[:rank].square().sum())


def _pairs(
    registry: Registry, ffn: str, trunk: str, expert: dict[str, TensorInfo]
) -> Iterator[tuple[str, TensorInfo, TensorInfo]]:
    """Yield each tensor's name, and its place in the seed and in the expert."""
    for digest in (ffn, trunk):
        for name, info in stored_tensors(registry.blobs, digest).items():
            yield name, info, expert[name]


def _is_projection(name: str, info: TensorInfo) -> bool:
    return name.endswith(".weight") and len(info.shape) == 2 and "embed" not in name


def _write(folder: Path, tensors: dict[str, torch.Tensor], template: str | None) -> None:
    ranks = {name: tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name}
    rank = max(ranks.values())
    modules = {name.removeprefix("base_model.model.").partition(".lora_A")[0]: r for name, r in ranks.items()}
    smaller = {f"^{module}": r for module, r in modules.items() if r < rank}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": smaller,
        "alpha_pattern": smaller,  # so that α / r stays 1
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
        "bias": "none",
        "inference_mode": True,
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2))
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
