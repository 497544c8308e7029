"""The short fine-tune of a mix: its training rows, its trained parts and its losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from composer.errors import RecipeError
from composer.mix.opening import OpenMix
from composer.mix.recipe import TrainedPart, Training
from composer.model.losses import RouterLosses
from composer.model.modeling import NexusForCausalLM
from composer.model.routers import router_class
from composer.progress import Progress, silent
from composer.training.data import Documents, mixed_rows
from composer.training.trainer import Schedule, fit

# First and last temperature of the gate's annealing in EvoMoE (arXiv 2112.14397).
HOT, COLD = 2.0, 0.3


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
    rows, schedule = rows_of(mix, domains, share, training), schedule_of(training)
    router = trains_router(training, mix.manifest.router_kind)
    trained = list(parameters(mix.model, training.train, router=router))
    if not trained:
        raise RecipeError(
            f"train: {training.train} trains nothing in this mix, because its {mix.manifest.router_kind} router is "
            "fixed: use train: trunk, ffn or all"
        )
    losses = mix.model.router_losses = RouterLosses(
        training.load_balance,
        training.z_loss,
        training.entropy,
        training.guided,
        experts=len(mix.manifest.members),
        global_batch=training.balance_over == "global_batch",
    )

    def before_step(step: int, steps: int) -> None:
        losses.begin_step()
        set_temperature(mix.model, temperature(step, steps, training.dense_to_sparse))

    try:
        return fit(
            mix.model,
            rows,
            trained,
            schedule,
            folder,
            stage="fine-tuning",
            before_step=before_step,
            progress=progress,
        )
    finally:
        set_temperature(mix.model, None)


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
    return not training.warm_start or router_class(router_kind).needs_training


def parameters(model: nn.Module, train: TrainedPart, *, router: bool) -> Iterator[nn.Parameter]:
    """Yield the parameters to train: those of the trunk, the FFNs or both, and of the router if `router` is true."""
    for name, parameter in model.named_parameters():
        part = "router" if ".router." in name else "ffn" if is_ffn(name) else "trunk"
        if router if part == "router" else train in (part, "all"):
            yield parameter


def is_ffn(name: str) -> bool:
    """Whether a parameter of a mix belongs to the shared or a routed expert."""
    return ".mlp.shared." in name or ".mlp.experts." in name
