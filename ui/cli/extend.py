"""`nexusmix extend`: add one expert to a mix and keep its router."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ui.cli.kit.context import (
    BalanceOver,
    DataMix,
    DenseToSparse,
    Entropy,
    ExpertRef,
    Json,
    LearningRate,
    LicenseOverride,
    LoraRank,
    MixRef,
    Processes,
    Queue,
    RandomSeed,
    RegmixRuns,
    RegmixTokens,
    Train,
    TrainRouter,
    TrainTokens,
    WarmStart,
    ZLoss,
    examples,
    given,
    open_registry,
    research_values,
    use_processes,
)
from ui.cli.kit.output import note, print_json, progress
from ui.cli.kit.report import note_memory, print_composed
from ui.cli.runs import print_queued
from ui.wording.shapes import composed_shape

if TYPE_CHECKING:
    from composer.mix.opening import Manifest
    from composer.mix.recipe import Training

EXAMPLES = research_values("--data-mix") + examples(
    "nexusmix extend team cooking", "nexusmix extend team@1 cooking@2 --tokens 200k"
)


def extend(
    ctx: typer.Context,
    mix: MixRef,
    expert: ExpertRef,
    tokens: TrainTokens = None,
    warm_start: WarmStart = None,
    train: Train = None,
    data_mix: DataMix = None,
    learning_rate: LearningRate = None,
    lora_rank: LoraRank = None,
    license_override: LicenseOverride = None,
    random_seed: RandomSeed = 0,
    train_router: TrainRouter = None,
    regmix_runs: RegmixRuns = None,
    regmix_tokens: RegmixTokens = None,
    balance_over: BalanceOver = None,
    z_loss: ZLoss = None,
    entropy: Entropy = None,
    dense_to_sparse: DenseToSparse = None,
    nproc: Processes = None,
    queue: Queue = False,
    as_json: Json = False,
) -> None:
    """Extend a mix by one more expert.

    No router parameter is reset: the mix's router computes the gate from the new expert's domain embedding. The
    result is the mix's next version, with the old version as its parent.
    """
    from composer.estimate import estimate_extension
    from composer.extension import extend as run
    from composer.mix.opening import find_mix
    from ui.queue.jobs import submit

    use_processes(nproc, queue=queue)
    asked = given(
        {
            "tokens": tokens,
            "warm_start": warm_start,
            "train": train,
            "train_router": train_router,
            "data_mix": data_mix,
            "learning_rate": learning_rate,
            "lora_rank": lora_rank,
            "random_seed": random_seed,
            "regmix_runs": regmix_runs,
            "regmix_tokens": regmix_tokens,
            "balance_over": balance_over,
            "z_loss": z_loss,
            "entropy": entropy,
            "dense_to_sparse": dense_to_sparse,
        }
    )
    with open_registry(ctx) as registry:
        _, manifest = find_mix(registry, mix)
        training = _training(manifest, asked)
        if queue:
            request = {
                "mix": mix,
                "expert": expert,
                "training": training.model_dump(mode="json"),
                "license_override": license_override,
            }
            print_queued(submit(registry, "extend", request), as_json)
            return
        if training.tokens:
            note_memory(estimate_extension(registry, manifest, expert, training))
        with progress() as report:
            result = run(
                registry, mix, expert, training=training, license_override=license_override, progress=report
            )
    if as_json:
        print_json(composed_shape(result))
    else:
        print_composed(composed_shape(result))
        note(f"next: nexusmix evaluate {result.mix.ref} --against {result.mix.parent}")


def _training(manifest: Manifest, asked: dict[str, Any]) -> Training:
    """Training settings of the extension: the given options, this mix's load balance, and defaults."""
    from composer.mix.recipe import Training, routed_training

    training = Training.parse({"load_balance": manifest.load_balance, **asked})
    return routed_training(training) if manifest.routed_trunk else training
