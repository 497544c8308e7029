"""What a mix learns after it was put together: the warm start, the fine-tune, and which blobs these change."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from composer.data import shares
from composer.domains import Domain, Standard
from composer.mix import PREFIX, Manifest, OpenMix, open_mix, seed_config
from composer.progress import Progress
from composer.recipe import Training
from composer.weights import TORCH_DTYPES, put_tensors
from composer.work import exclusive, work_folder
from registry import documents
from registry.families import family_of
from registry.home import Registry
from registry.records import Digest

GENERAL = "general"


def learn(
    registry: Registry,
    draft: Manifest,
    domains: Sequence[Domain],
    standard: Standard,
    training: Training,
    *,
    new: str | None = None,
    progress: Progress,
) -> Manifest:
    """Train a draft and return the manifest of what it became; a draft that trains nothing comes back as it is.

    `new` names the domain that gets half of the tokens. An interrupted run goes on from its last checkpoint when
    the same lock is composed again; two runs of one lock wait for each other.
    """
    if not training.learns:
        return draft
    from composer.finetune import finetune, trains_router
    from composer.warmstart import warm_start

    work = work_folder(registry, draft.lock)
    report: dict[str, Any] = {}
    with exclusive(work):
        mix = open_mix(registry, draft, dtype=torch.float32)

        # What trains moves the states away from the embeddings that were solved for them.
        twice = training.warm_start and training.tokens > 0 and not trains_router(training)

        def solve_routers(*, extended: bool, preliminary: bool) -> dict[str, Any]:
            """Solve the routers for the model as it is; what to report of it."""
            done = warm_start(
                mix.model,
                mix.tokenizer,
                domains,
                standard,
                random_seed=training.random_seed,
                extended=extended,
                preliminary=preliminary,
                progress=progress,
            )
            if not math.isfinite(done.own_domain):  # no text: nothing was done
                return {}
            return {"warm_start": {"tokens": done.tokens_forwarded, "own_domain": round(done.own_domain, 4)}}

        if training.warm_start:
            # Old embeddings are kept exactly, unless the recipe lets the fine-tune change the router.
            keep = new is not None and training.train_router is not True
            report |= solve_routers(extended=keep, preliminary=twice)
        if training.tokens:
            texts = _texts(registry, draft, domains)
            share = shares(list(texts), new)
            losses = finetune(mix, texts, share, training, work, progress)
            report |= {"tokens": training.tokens, "first_loss": losses[0], "last_loss": losses[-1]}
            if twice:
                again = solve_routers(extended=False, preliminary=False)
                for name in again.keys() & report.keys():
                    again[name]["tokens"] += report[name]["tokens"]
                report |= again
        trained = _store(registry, draft, mix, standard, training)
    shutil.rmtree(work)
    return trained.model_copy(update={"training": report})


def put_router(registry: Registry, routers: Sequence[torch.nn.Module], standard: Standard) -> Digest:
    """Store the routers of all blocks and the standardisation of their domain vectors."""
    tensors = {
        f"layers.{layer}.{name}": tensor.detach().float()
        for layer, router in enumerate(routers)
        for name, tensor in router.state_dict().items()
    }
    tensors |= {"standard.center": standard.center, "standard.scale": standard.scale.reshape(1)}
    return put_tensors(registry.blobs, tensors)


def stored_standard(router: Mapping[str, torch.Tensor]) -> Standard:
    """The standardisation kept with a router blob."""
    return Standard(router["standard.center"].clone(), router["standard.scale"].clone().reshape(()))


def _texts(registry: Registry, draft: Manifest, domains: Sequence[Domain]) -> dict[str, list[str]]:
    """The text to train on, by domain; the seed's own sample, where there is one, stands for the general domain."""
    texts = {domain.name: domain.documents for domain in domains if domain.has_text}
    if draft.seed.sample is not None:
        texts[GENERAL] = documents.load_documents(registry.blobs, draft.seed.sample)
    return texts


def _store(
    registry: Registry, draft: Manifest, mix: OpenMix, standard: Standard, training: Training
) -> Manifest:
    """Blobs for what was trained; what was frozen keeps its digest."""
    changed: dict[str, Any] = {
        "router": put_router(registry, [m.router for m in mix.model.mixtures()], standard)
    }
    if training.tokens == 0 or training.train == "router":
        return draft.model_copy(update=changed)
    blobs = registry.blobs
    family = family_of(seed_config(blobs, draft.seed))
    state = mix.model.state_dict()
    dtype = TORCH_DTYPES[draft.seed.dtype]
    marker = family.mlp_path.rsplit("{i}", 1)[1] + "."

    def part(place: str) -> Digest:
        """One FFN of every block, under the family's own names."""
        inside = f"{marker}{place}."
        return put_tensors(
            blobs,
            {
                k.removeprefix(PREFIX).replace(inside, marker, 1): v.to(dtype)
                for k, v in state.items()
                if inside in k
            },
        )

    if training.train in ("trunk", "all"):
        tied = set(mix.model.all_tied_weights_keys)
        trunk = {
            k.removeprefix(PREFIX): v.to(dtype) for k, v in state.items() if marker not in k and k not in tied
        }
        changed["trunk"] = put_tensors(blobs, trunk)
    if training.train in ("ffn", "all"):
        changed["shared"] = part("shared")
        changed["members"] = [
            member.model_copy(update={"ffn": part(f"experts.{j}")}) for j, member in enumerate(draft.members)
        ]
    return draft.model_copy(update=changed)
