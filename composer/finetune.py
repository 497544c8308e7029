"""The short fine-tune of a mix: which parts train, on which rows, and what must be stored afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import nn

from composer.data import Documents, mixed_rows
from composer.mix import OpenMix
from composer.progress import Progress, silent
from composer.recipe import TrainedPart, Training
from composer.training import Schedule, fit


def finetune(
    mix: OpenMix,
    domains: Mapping[str, Documents],
    share: Mapping[str, float],
    training: Training,
    folder: Path,
    progress: Progress = silent,
) -> list[float]:
    """Train a mix in place on `training.tokens` tokens of its domains; returns the logged losses.

    Raises MissingTextError, RecipeError, TrainingDivergedError.
    """
    rows = mixed_rows(
        mix.tokenizer,
        domains,
        share,
        tokens=training.tokens,
        length=training.sequence_length,
        random_seed=training.random_seed,
        experts=mix.model.config.experts,
    )
    mix.model.config.guidance = training.guided
    schedule = Schedule(
        learning_rate=training.learning_rate,
        batch_rows=max(1, training.batch_tokens // training.sequence_length),
        random_seed=training.random_seed,
    )
    trained = list(parameters(mix.model, training.train, router=trains_router(training)))
    return fit(mix.model, rows, trained, schedule, folder, stage="fine-tuning", progress=progress)


def trains_router(training: Training) -> bool:
    """Whether the fine-tune trains the router: always if nothing else trains, else as the recipe says."""
    if training.train == "router":
        return True
    return training.train_router if training.train_router is not None else not training.warm_start


def parameters(model: nn.Module, train: TrainedPart, *, router: bool) -> Iterator[nn.Parameter]:
    """The parameters that train: of the trunk, the FFNs or both, and of the router if it does."""
    for name, parameter in model.named_parameters():
        part = "router" if ".router." in name else "ffn" if is_ffn(name) else "trunk"
        if router if part == "router" else train in (part, "all"):
            yield parameter


def is_ffn(name: str) -> bool:
    """Whether a parameter of a mix belongs to the shared or a routed expert."""
    return ".mlp.shared." in name or ".mlp.experts." in name
