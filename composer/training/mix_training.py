"""Training of an assembled mix: the warm start, the fine-tune, and the blobs that these change."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from composer.mix.domains import Domain, Standard
from composer.mix.merged_parts import joined
from composer.mix.opening import (
    Manifest,
    OpenMix,
    open_expert,
    open_mix,
    open_model,
    read_manifest,
    seed_config,
)
from composer.mix.recipe import Training
from composer.mix.router_blob import router_tensors
from composer.mix.tensor_names import PREFIX, mlp_marker
from composer.model.on_demand import weights_of
from composer.processes import current
from composer.progress import Progress, timed
from composer.tensors.stream import stored_tensors
from composer.tensors.torch_blobs import TORCH_DTYPES, put_tensors
from composer.tensors.weights import put_weights
from composer.training.low_rank import add_low_rank, low_rank, stored_name
from registry.checkpoints.families import family_of
from registry.domains import documents
from registry.home import Registry
from registry.records import Digest
from registry.work_folders import occupied, work_folder

if TYPE_CHECKING:
    from composer.training.warm_start.trunk import Source

GENERAL = "general"
FITTED = "trunk.safetensors"  # for the other processes, until the run ends
# From this number of fine-tune tokens on, the second warm start uses the full amount of text, not the reduced one.
LONG = 50_000


def learn(
    registry: Registry,
    draft: Manifest,
    domains: Sequence[Domain],
    standard: Standard,
    training: Training,
    *,
    fitted: bool = False,
    new: str | None = None,
    progress: Progress,
) -> Manifest:
    """Train a draft and return the manifest of the trained mix; a draft without training is returned unchanged.

    `fitted`: the warm start also fits the trunk. `new` names the domain that gets half of the tokens.

    An interrupted run resumes from its last checkpoint when the same lock is composed again. Two runs of one lock
    wait for each other.
    """
    if not training.learns:
        return draft
    from composer.training.data_mix import choose_shares
    from composer.training.fine_tune import finetune, trains_router

    folder = work_folder(registry, draft.lock.removeprefix("sha256:"))
    report: dict[str, Any] = {}

    def on_wait() -> None:
        progress("waiting for another composition of the same lock", 0, 1)

    with occupied(registry, folder, keep=True, on_wait=on_wait) as work:
        mix = open_mix(registry, draft, dtype=torch.float32, trainable=_trains_whole(training))
        solve = partial(_solve_routers, mix, domains, standard, training, progress)
        # Training the other parts changes the states for which the routers were solved, so they are solved again.
        twice = training.warm_start and training.tokens > 0 and not trains_router(training, draft.router_kind)
        sources = _trunk_sources(registry, draft, domains) if training.warm_start and fitted else []
        with timed("trunk"):
            trunk_tokens = _fit_trunk(mix, sources, training, work, progress)
        if training.warm_start:
            # The old embeddings are kept exactly, unless the lock sets train_router (gathering.py).
            keep = new is not None and training.train_router is not True
            with timed("router"):
                opening = _handed_over(mix, draft, work, fitted=trunk_tokens > 0)
                report |= solve(extended=new is not None, keep=keep, preliminary=twice, opening=opening)
            if trunk_tokens:
                report.setdefault("warm_start", {"tokens": 0})
                report["warm_start"]["tokens"] += trunk_tokens
        if training.tokens:
            texts = _texts(registry, draft, domains)
            if training.train == "lora":
                add_low_rank(mix.model, training.lora_rank, training.random_seed)
            with timed("data mix"):
                share, found = choose_shares(mix, texts, new, training, work, progress)
            with timed("fine-tune"):
                losses = finetune(mix, texts, share, training, work, progress)
            # A step may contain rows of one domain only, so the report averages the losses over a tenth of the steps.
            tenth = max(1, len(losses) // 10)
            first, last = fmean(losses[:tenth]), fmean(losses[-tenth:])
            report |= found | {"tokens": training.tokens, "first_loss": first, "last_loss": last}
            if twice:
                with timed("router"):
                    again = solve(preliminary=training.tokens < LONG)
                for name in again.keys() & report.keys():
                    again[name]["tokens"] += report[name]["tokens"]
                report |= again
        trained = _store(registry, draft, mix, standard, training, trunk=bool(sources))
    return trained.model_copy(update={"training": report})


def _trains_whole(training: Training) -> bool:
    """Whether a fine-tune trains weights themselves, which are then opened in float32."""
    return training.tokens > 0 and training.train != "lora"


def _solve_routers(
    mix: OpenMix,
    domains: Sequence[Domain],
    standard: Standard,
    training: Training,
    progress: Progress,
    *,
    extended: bool = False,
    keep: bool = False,
    preliminary: bool,
    opening: Callable[[Registry], Any] | None = None,
) -> dict[str, Any]:
    """Solve the routers for the model's current weights, and return the report."""
    from composer.training.warm_start import warm_start

    done = warm_start(
        mix.model,
        mix.tokenizer,
        domains,
        standard,
        random_seed=training.random_seed,
        extended=extended,
        keep=keep,
        preliminary=preliminary,
        opening=opening,
        progress=progress,
    )
    if not math.isfinite(done.own_domain):  # no text, or a fixed router: nothing was solved
        return {}
    return {"warm_start": {"tokens": done.tokens_forwarded, "own_domain": round(done.own_domain, 4)}}


def _handed_over(mix: OpenMix, draft: Manifest, folder: Path, *, fitted: bool) -> Callable[[Registry], Any]:
    """Return a picklable function that opens the mix in another process; a fitted trunk goes by a file in `folder`."""
    from composer.training.fine_tune import part_of
    from composer.training.handover import hand_over

    path = folder / FITTED if fitted else None
    if path is not None and current().size > 1:
        hand_over(mix.model, lambda name: part_of(name) == "trunk", path)
    return partial(_open_handed_over, manifest=draft, path=path)


def _open_handed_over(registry: Registry, manifest: Manifest, path: Path | None) -> Any:
    from composer.training.handover import take_over

    model = open_model(registry, manifest, torch.float32)
    if path is not None:
        take_over(model, path)
    return model


def _trunk_sources(registry: Registry, draft: Manifest, domains: Sequence[Domain]) -> list[Source]:
    """Return the models whose trunks were merged into the draft's; none if all these trunks are equal."""
    from composer.training.warm_start.trunk import Source

    def source(opening: Callable[[Registry], Any], part: Sequence[Domain], weight: float = 1.0) -> Source:
        return Source(partial(opening, registry), part, weight, opening)

    experts = [member.expert for member in draft.members]
    trunks = {(expert.trunk, expert.difference) for expert in experts}
    dense = partial(open_expert, seed=draft.seed, dtype=torch.float32)
    sources = [
        source(partial(dense, expert=expert), [domain])
        for expert, domain in zip(experts, domains, strict=True)
    ]
    if draft.parent is not None:
        old = read_manifest(registry, draft.parent)
        trunks = {(old.trunk, old.difference), (experts[-1].trunk, experts[-1].difference)}
        mix = partial(open_model, manifest=old, dtype=torch.float32)
        sources = [source(mix, domains[:-1], len(old.members)), sources[-1]]
    return sources if len(trunks) > 1 else []


def _fit_trunk(
    mix: OpenMix, sources: Sequence[Source], training: Training, folder: Path, progress: Progress
) -> int:
    """Fit the trunk to the sources, if there are any, and return the number of tokens passed forward."""
    from composer.training.warm_start.trunk import fit_trunk

    if not sources:
        return 0
    return fit_trunk(
        mix.model,
        mix.tokenizer,
        sources,
        random_seed=training.random_seed,
        folder=folder,
        progress=progress,
    )


def put_router(registry: Registry, routers: Sequence[torch.nn.Module], standard: Standard) -> Digest:
    """Store the routers of all blocks, and the standardisation of their domain vectors, as one blob."""
    states = [
        {name: tensor.detach().float() for name, tensor in router.state_dict().items()} for router in routers
    ]
    return put_tensors(registry.blobs, router_tensors(states, standard))


def _texts(registry: Registry, draft: Manifest, domains: Sequence[Domain]) -> dict[str, list[str]]:
    """Return the training text of each domain. The seed's sample, if it has one, is the general domain."""
    texts = {domain.name: domain.documents for domain in domains if domain.has_text}
    if draft.seed.sample is not None:
        texts[GENERAL] = documents.load_documents(registry.blobs, draft.seed.sample)
    return texts


def _store(
    registry: Registry, draft: Manifest, mix: OpenMix, standard: Standard, training: Training, *, trunk: bool
) -> Manifest:
    """Store blobs of the trained parts; frozen parts keep their digests. `trunk`: the warm start fitted the trunk."""
    changed: dict[str, Any] = {
        "router": put_router(registry, [m.router for m in mix.model.mixtures()], standard)
    }
    trained = training.train if training.tokens else "router"
    blobs = registry.blobs
    family = family_of(seed_config(blobs, draft.seed))
    state = weights_of(mix.model)
    dtype = TORCH_DTYPES[draft.seed.dtype]
    marker = mlp_marker(family)

    own = [k for k in state if ".differences." not in k]

    def part(place: str) -> Digest:
        """Store one FFN of every block, under the family's own tensor names."""
        inside = f"{marker}{place}."
        names = {k: k.removeprefix(PREFIX).replace(inside, marker, 1) for k in own if inside in k}
        return put_weights(blobs, {plain: state[k] for k, plain in names.items()}, dtype)

    if trunk or trained in ("trunk", "all"):
        tied = set(mix.model.all_tied_weights_keys)
        names = {k: k.removeprefix(PREFIX) for k in own if marker not in k and k not in tied}
        changed["trunk"] = put_weights(blobs, {plain: state[k] for k, plain in names.items()}, dtype)
    if trained in ("ffn", "all"):
        changed["shared"] = part("shared")
        changed["members"] = [
            member.model_copy(update={"ffn": part(f"experts.{j}")}) for j, member in enumerate(draft.members)
        ]
    if draft.difference is not None or trained == "lora":
        whole = {"trunk": "trunk" in changed, "ffn": "shared" in changed}
        kept = {} if draft.difference is None else stored_tensors(blobs, draft.difference)
        kept = {name: info for name, info in kept.items() if not whole["ffn" if marker in name else "trunk"]}
        new = {stored_name(name): p.detach().float().cpu().numpy() for name, p in low_rank(mix.model).items()}
        changed["difference"] = joined(blobs, kept, new) if kept or new else None
    return draft.model_copy(update=changed)
