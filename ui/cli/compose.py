"""`nexusmix compose`: turn chosen experts into one Nexus mixture and publish it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer.variants import ROUTERS, TRUNK_MERGES
from ui.cli.kit.context import (
    TRAINING,
    DataMix,
    Json,
    LearningRate,
    LicenseOverride,
    Queue,
    Train,
    TrainRouter,
    TrainTokens,
    WarmStart,
    examples,
    given,
    open_registry,
)
from ui.cli.kit.output import note, print_json, progress
from ui.cli.kit.report import print_composed
from ui.cli.runs import print_queued
from ui.wording.shapes import composed_shape

if TYPE_CHECKING:
    from composer.mix.recipe import Recipe

EXAMPLES = examples(
    "nexusmix compose team --seed smol --experts python,law,math",
    "nexusmix compose team --seed smol --experts python,law@2 --tokens 1M",
    "nexusmix compose team --recipe team.yaml",
)


def compose(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The mix's name.")],
    seed: Annotated[str | None, typer.Option(metavar="SEED", help="The seed that all experts share.")] = None,
    experts: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="The experts, by NAME (newest) or NAME@V.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A recipe in YAML; options given here override it.")
    ] = None,
    router: Annotated[
        str | None,
        typer.Option(metavar="ROUTER", help=f"How tokens find experts: {ROUTERS.choices()}."),
    ] = None,
    combine: Annotated[
        str | None,
        typer.Option(
            metavar="RULE", help="convex: (1-p)·seed + p·expert; additive: seed + p·expert, as in the paper."
        ),
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, metavar="K", help="Routed experts per token.")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="As few experts per token as have this probability together."),
    ] = None,
    null_experts: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="M", help="Choices that compute nothing, beside --top-k 2 or more or --top-p."
        ),
    ] = None,
    trunk_merge: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help=f"The mix's trunk: {TRUNK_MERGES.choices()}; their parameters, and weighted, in a recipe.",
        ),
    ] = None,
    license_override: LicenseOverride = None,
    tokens: TrainTokens = None,
    warm_start: WarmStart = None,
    train: Train = None,
    train_router: TrainRouter = None,
    data_mix: DataMix = None,
    learning_rate: LearningRate = None,
    random_seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="The same number, the same mix.", rich_help_panel=TRAINING),
    ] = None,
    queue: Queue = False,
    as_json: Json = False,
) -> None:
    """Compose a mix of chosen experts.

    Their trunks are merged, their FFNs attached as routed experts beside the seed's own, the router is fitted
    to their domains, and all of it is fine-tuned shortly. What is left out takes
    the recipe's value, or the default that worked best. The experts' FFNs are referenced, never copied.
    """
    top = {
        "name": name,
        "seed": seed,
        "experts": [expert.strip() for expert in experts.split(",") if expert.strip()] if experts else None,
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
        "random_seed": random_seed,
    }
    if recipe is None and (seed is None or experts is None):
        raise typer.BadParameter("give --seed and --experts, or --recipe FILE that holds them")
    resolved = read_recipe(recipe, given(top), given(training))
    if queue:
        from ui.queue.jobs import submit

        with open_registry(ctx) as registry:
            print_queued(submit(registry, "compose", {"recipe": resolved.model_dump(mode="json")}), as_json)
        return
    from composer.composition import compose as run

    with open_registry(ctx) as registry, progress() as report:
        result = run(registry, resolved, progress=report)
    if as_json:
        print_json(composed_shape(result))
    else:
        print_composed(composed_shape(result))
        note(f"next: nexusmix evaluate {result.mix.ref}, or nexusmix generate {result.mix.ref} 'prompt'")


def read_recipe(file: Path | None, top: dict[str, Any], training: dict[str, Any]) -> Recipe:
    """The recipe of `file`, if any, with the options of the command line over its fields."""
    from composer.mix.recipe import Recipe

    if file is None:
        return Recipe.parse({**top, "training": training})
    recipe = Recipe.from_yaml(file, **top)
    merged = {**recipe.training.model_dump(), **training}
    return Recipe.parse({**recipe.model_dump(), "training": merged})
