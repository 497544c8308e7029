"""The short fine-tune of a mix: its training rows, its trained parts and its losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from composer import processes
from composer.errors import RecipeError
from composer.mix.opening import Manifest, OpenMix, open_mix
from composer.mix.recipe import TrainedPart, Training
from composer.model.losses import RouterLosses
from composer.model.modeling import NexusForCausalLM
from composer.model.routed import add_differences, differences
from composer.processes import Team
from composer.progress import Progress, silent
from composer.training.data import Documents, mixed_rows
from composer.training.handover import hand_over, take_over
from composer.training.low_rank import add_low_rank
from composer.training.sharding import gathered, is_replicated
from composer.training.trainer import Schedule, fit
from composer.variants import ROUTERS

START = "start.safetensors"  # what a warm start changed, for the other processes

# First and last temperature of the gate's annealing in EvoMoE (arXiv 2112.14397).
HOT, COLD = 2.0, 0.3


@dataclass(frozen=True)
class Job:
    """A fine-tune that every process of a team can prepare from the registry.

    `manifest` is the draft, and `rows` the training text. `differences` are the experts of a routed trunk whose
    low-rank differences are trained; a merged trunk has none.
    """

    manifest: Manifest
    training: Training
    rows: Any
    folder: Path
    differences: tuple[int, ...] = ()

    def trained(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the parameters to train by name. Raises RecipeError if there are none."""
        if self.differences:
            return {name: p for j in self.differences for name, p in differences(model, j).items()}
        router = trains_router(self.training, self.manifest.router_kind)
        found = dict(parameters(model, self.training.train, router=router))
        if not found:
            raise RecipeError(
                f"train: {self.training.train} trains nothing in this mix, because its {self.manifest.router_kind} "
                "router is fixed: use train: trunk, ffn, all or lora"
            )
        return found


def finetune(
    mix: OpenMix,
    domains: Mapping[str, Documents],
    share: Mapping[str, float],
    training: Training,
    folder: Path,
    progress: Progress = silent,
) -> list[float]:
    """Train a mix in place on `training.tokens` tokens of its domains, and return the logged losses.

    Raises MissingTextError, RecipeError (also if the settings train no parameter), TrainingDivergedError.
    """
    return run(mix, Job(mix.manifest, training, rows_of(mix, domains, share, training), folder), progress)


def run(mix: OpenMix, job: Job, progress: Progress = silent) -> list[float]:
    """Train a mix in place, in this process or in all those of its team, and return the logged losses.

    Raises RecipeError, TrainingDivergedError, StorageError, ProcessLostError.
    """
    trained, team = job.trained(mix.model), processes.current()
    if team.size == 1:
        return _fit(mix.model, job, progress, team, sharded=False)
    hand_over(
        mix.model,
        lambda name: name in trained if job.differences else part_of(name) != "ffn",
        job.folder / START,
    )
    weights = sum(parameter.numel() for parameter in trained.values())
    sharded = not is_replicated(weights, job.training.optimizer)
    losses, values = team.share(run_share, job, sharded, progress=progress, own=mix.model)
    for name, value in values.items():
        trained[name].data = value.to(trained[name].device)
    mix.model.requires_grad_(False)
    return losses


def run_share(
    team: Team, job: Job, sharded: bool, progress: Progress = silent, own: Any = None
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train this process's share of a mix, and return the losses and, if it was `sharded`, the trained parameters.

    The leader's `own` mix trains if it stays whole; else, and in other processes, the mix is opened again.
    """
    if own is not None and not sharded:
        return _fit(own, job, progress, team, sharded), {}
    assert team.registry is not None
    low_rank = job.differences or job.training.train == "lora"
    model = open_mix(
        team.registry, job.manifest, dtype=torch.float32, trainable=not low_rank, trained=job.differences
    ).model
    if job.differences:
        add_differences(model, job.differences, job.training.lora_rank)
    elif low_rank:
        add_low_rank(model, job.training.lora_rank, job.training.random_seed)
    take_over(model, job.folder / START)
    names = job.trained(model).keys()
    losses = _fit(model, job, progress, team, sharded)
    values = gathered(model, names) if sharded else iter(())
    return losses, {name: value for name, value in values if team.leads}


def _fit(model: Any, job: Job, progress: Progress, team: Team, sharded: bool) -> list[float]:
    training = job.training
    losses = RouterLosses(
        training.load_balance,
        training.z_loss,
        training.entropy,
        training.guided,
        experts=len(job.manifest.members),
        global_batch=training.balance_over == "global_batch",
        total=team.total if team.size > 1 else None,
    )
    model.router_losses = losses

    def before_step(step: int, steps: int) -> None:
        losses.begin_step()
        if not job.manifest.routed_trunk:
            set_temperature(model, temperature(step, steps, training.dense_to_sparse))

    try:
        return fit(
            model,
            job.rows,
            list(job.trained(model).values()),
            schedule_of(training),
            job.folder,
            stage="fine-tuning",
            before_step=before_step,
            progress=progress,
            team=team,
            sharded=sharded,
        )
    finally:
        if not job.manifest.routed_trunk:
            set_temperature(model, None)


def rows_of(
    mix: OpenMix, domains: Mapping[str, Documents], share: Mapping[str, float], training: Training
) -> Any:
    """Return the rows of a fine-tune with the expert of each. Raises the errors of `mixed_rows`."""
    return mixed_rows(
        mix.tokenizer,
        domains,
        share,
        tokens=training.tokens,
        length=training.sequence_length,
        random_seed=training.random_seed,
        experts=mix.model.config.experts,
    )


def schedule_of(training: Training) -> Schedule:
    """Return the schedule of a fine-tune with these settings."""
    return Schedule(
        learning_rate=training.learning_rate,
        batch_rows=training.batch_rows,
        random_seed=training.random_seed,
        micro_batches=training.micro_batches,
        gradient_checkpointing=training.gradient_checkpointing,
        optimizer=training.optimizer,
    )


def temperature(step: int, steps: int, share: float) -> float | None:
    """Return the temperature of dense-to-sparse routing.

    It falls linearly over the first `share` of the steps. After these it is None, which means sparse routing.
    """
    dense = share * steps
    return HOT + (COLD - HOT) * step / dense if step < dense else None


def set_temperature(model: NexusForCausalLM, value: float | None) -> None:
    """Set the temperature at which every block routes densely in training; None: the mix's own sparse routing."""
    for mixture in model.mixtures():
        mixture.temperature = value


def trains_router(training: Training, router_kind: str) -> bool:
    """Whether the fine-tune trains the router.

    It does if nothing else trains. Otherwise the recipe's `train_router` decides. By default, the router trains only
    without a warm start, or if its type needs training.
    """
    if training.train == "router":
        return True
    if training.train_router is not None:
        return training.train_router
    return not training.warm_start or ROUTERS[router_kind].needs_training


def parameters(model: nn.Module, train: TrainedPart, *, router: bool) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the names and parameters to train: of the trunk, the FFNs or both, and of the router if `router`."""
    for name, parameter in model.named_parameters():
        part = part_of(name)
        if router if part == "router" else train == part or (train == "all" and part != "lora"):
            yield name, parameter


def part_of(name: str) -> TrainedPart:
    """Return the part of a mix that a parameter belongs to."""
    if ".router." in name:
        return "router"
    if ".differences." in name:
        return "lora"
    return "ffn" if is_ffn(name) else "trunk"


def is_ffn(name: str) -> bool:
    """Whether a parameter of a mix belongs to the shared or a routed expert."""
    return ".mlp.shared." in name or ".mlp.experts." in name
