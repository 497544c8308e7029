"""`nexusmix compose`: compose a mix of experts and publish it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer import resources
from composer.mix.presets import PRESETS
from composer.variants import ROUTERS, TRUNK_MERGES
from ui.cli.kit.context import (
    TRAINING,
    BalanceOver,
    DataMix,
    DenseToSparse,
    Entropy,
    Json,
    LearningRate,
    LicenseOverride,
    LoraRank,
    NullExperts,
    Processes,
    Queue,
    RegmixRuns,
    RegmixTokens,
    TopP,
    Train,
    TrainRouter,
    TrainTokens,
    WarmStart,
    ZLoss,
    examples,
    given,
    open_registry,
    parse_names,
    research_values,
    use_processes,
)
from ui.cli.kit.output import note, print_fields, print_json, progress
from ui.cli.kit.report import memory_of, note_memory, print_composed
from ui.cli.runs import print_queued
from ui.wording.display import duration, parameters, size
from ui.wording.shapes import composed_shape

if TYPE_CHECKING:
    from composer.estimate import Estimate
    from composer.mix.recipe import Recipe
    from registry.home import Registry

EXAMPLES = research_values("--router", "--trunk-merge", "--data-mix") + examples(
    "nexusmix compose team --seed smol --experts python,law,math",
    "nexusmix compose team --seed smol --experts python,law@2 --tokens 1M",
    "nexusmix compose team --recipe team.yaml",
)


def compose(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The mix's name.")],
    seed: Annotated[str | None, typer.Option(metavar="SEED", help="The seed of all the experts.")] = None,
    experts: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="The experts: NAME (its newest version) or NAME@N.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A recipe in YAML; other options override it.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET",
            help=f"Options to start from: {', '.join(PRESETS)}. whole is the default; paper is Nexus as published.",
        ),
    ] = None,
    router: Annotated[
        str | None,
        typer.Option(metavar="ROUTER", help=f"Router that chooses experts for tokens: {ROUTERS.choices()}."),
    ] = None,
    combine: Annotated[
        str | None,
        typer.Option(
            metavar="RULE", help="convex: (1-p)·seed + p·expert; additive: seed + p·expert, as in the paper."
        ),
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, metavar="K", help="Routed experts per token.")] = None,
    trunk_merge: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help=f"Rule that merges the trunks: {TRUNK_MERGES.choices()}. A recipe can give its parameters.",
            show_default="routed; regmean with options that only a merged trunk has",
        ),
    ] = None,
    license_override: LicenseOverride = None,
    tokens: TrainTokens = None,
    warm_start: WarmStart = None,
    train: Train = None,
    data_mix: DataMix = None,
    learning_rate: LearningRate = None,
    lora_rank: LoraRank = None,
    random_seed: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="The same number gives the same mix.", rich_help_panel=TRAINING
        ),
    ] = None,
    top_p: TopP = None,
    null_experts: NullExperts = None,
    train_router: TrainRouter = None,
    regmix_runs: RegmixRuns = None,
    regmix_tokens: RegmixTokens = None,
    balance_over: BalanceOver = None,
    z_loss: ZLoss = None,
    entropy: Entropy = None,
    dense_to_sparse: DenseToSparse = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only report the mix's size, memory, time and licence.")
    ] = False,
    nproc: Processes = None,
    queue: Queue = False,
    as_json: Json = False,
) -> None:
    """Compose a mix of chosen experts.

    By default every expert stays whole (--trunk-merge routed): each token passes through one of them, chosen from the
    text so far. This measured best. Nothing is trained; with --tokens, one low-rank difference per expert is. The
    preset merged, or an option of routing, asks for a merged trunk: the experts' FFNs become routed experts next to the
    seed's FFN, and the router is fitted. Without --warm-start, a fine-tune of 100k tokens trains it instead. Weights
    are referenced, not copied.
    """
    use_processes(nproc, queue=queue)
    top = {
        "name": name,
        "seed": seed,
        "experts": parse_names(experts) or None,
        "preset": preset,
        "router": router,
        "combine": combine,
        "top_k": top_k,
        "top_p": top_p,
        "null_experts": null_experts,
        "trunk_merge": trunk_merge,
        "license_override": license_override,
    }
    training = {
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
    if recipe is None and (seed is None or experts is None):
        raise typer.BadParameter("expected --seed and --experts, or --recipe FILE that contains them")
    resolved = read_recipe(recipe, given(top), given(training))
    if dry_run:
        _print_estimate(ctx, resolved, as_json)
        return
    if queue:
        from ui.queue.jobs import submit

        with open_registry(ctx) as registry:
            print_queued(submit(registry, "compose", {"recipe": resolved.model_dump(mode="json")}), as_json)
        return
    from composer.composition import compose as run

    with open_registry(ctx) as registry, progress() as report:
        if resolved.training.tokens:
            note_memory(_forecast(registry, resolved))
        result = run(registry, resolved, progress=report)
    if as_json:
        print_json(composed_shape(result))
    else:
        print_composed(composed_shape(result))
        note(f"next: nexusmix evaluate {result.mix.ref}, or nexusmix generate {result.mix.ref} 'prompt'")


def _forecast(registry: Registry, recipe: Recipe) -> Estimate:
    from composer.estimate import estimate
    from registry.catalog.queries import get_parts

    parts = get_parts(registry, recipe.seed, recipe.experts)
    return estimate(registry, *parts, recipe.model_dump(mode="json"))


def _print_estimate(ctx: typer.Context, recipe: Recipe, as_json: bool) -> None:
    with open_registry(ctx) as registry:
        forecast = _forecast(registry, recipe)
    if as_json:
        print_json(dataclasses.asdict(forecast))
        return
    time = f"about {duration(forecast.seconds)}" if forecast.tokens else "forward passes only"
    print_fields(
        {
            "total": f"{parameters(forecast.total)} parameters",
            "active": f"{parameters(forecast.active)} parameters per token",
            "to be written": size(forecast.bytes_written),
            "memory": memory_of(forecast),
            "fine-tune": f"{forecast.tokens:,} tokens" if forecast.tokens else "none",
            "time": time,
            "licence": forecast.license or forecast.conflict,
        }
    )
    allowed = resources.limit()
    if allowed is not None and forecast.memory > allowed:
        note(
            f"the memory is more than --memory allows ({size(allowed)}): only weights that are computed obey it"
        )


def read_recipe(file: Path | None, top: dict[str, Any], training: dict[str, Any]) -> Recipe:
    """Read the recipe `file`, if any, and override its fields by the options of the command line."""
    from composer.mix.recipe import Recipe

    if file is None:
        return Recipe.parse({**top, "training": training})
    return Recipe.from_yaml(file, training=training, **top)
