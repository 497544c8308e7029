"""`nexusmix seed add|list|show`: the dense models that experts are fine-tuned from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ui.cli.delete import print_deleted
from ui.cli.kit.context import (
    Data,
    Description,
    Json,
    License,
    TextColumn,
    examples,
    open_registry,
)
from ui.cli.kit.group import Group, Verb
from ui.cli.kit.output import (
    Column,
    note,
    print_fields,
    print_json,
    print_table,
    progress,
)
from ui.wording.display import parameters
from ui.wording.shapes import seed_shape

app = typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode="rich")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The seed's name.")]


@app.command(
    cls=Verb,
    epilog=examples(
        "nexusmix seed add smol ./SmolLM2-135M --license Apache-2.0",
        "nexusmix seed add smol hf:HuggingFaceTB/SmolLM2-135M --license Apache-2.0",
    ),
)
def add(
    ctx: typer.Context,
    name: Name,
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="Folder with config, tokenizer and *.safetensors, or hf:OWNER/NAME\\[@REVISION].",
        ),
    ],
    license: License,
    description: Description = "",
    data: Data = None,
    text_column: TextColumn = None,
    as_json: Json = False,
) -> None:
    """Publish a dense causal LM as a seed.

    The text of --data is optional. Mixes are measured on it as their general domain.
    """
    from composer.experts.contribution import add_seed

    with open_registry(ctx) as registry, progress() as report:
        seed = add_seed(
            registry,
            name,
            source,
            license=license,
            description=description,
            data=data or (),
            text_column=text_column,
            progress=report,
        )
    if as_json:
        print_json(seed_shape(seed))
    else:
        print_fields({"seed": seed.name, **_card(seed_shape(seed))})
        note(f"next: nexusmix contribute NAME PATH --seed {seed.name} --license SPDX --data FILE")


@app.command(
    cls=Verb,
    epilog=examples("nexusmix seed extend smol-chat --seed smol --tokens ./my-chat-tune"),
)
def extend(
    ctx: typer.Context,
    name: Name,
    seed: Annotated[str, typer.Option(metavar="SEED", help="The seed to extend.")],
    tokens: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Folder with the tokenizer that has the tokens. Repeatable."),
    ] = None,
    untie: Annotated[
        bool, typer.Option("--untie", help="Make the head a tensor of its own, a copy of the embedding.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a seed again, for tunes that added tokens or trained the head of a seed whose head is its embedding.

    The new seed is the same model. Its embedding and head have a row for each token of the tokenizers.
    """
    from composer.experts.extend_seed import extend_seed

    with open_registry(ctx) as registry:
        made = extend_seed(registry, name, seed, tokens or (), untie=untie)
    if as_json:
        print_json(seed_shape(made))
    else:
        print_fields({"seed": made.name, **_card(seed_shape(made))})
        note(f"next: nexusmix contribute NAME PATH --seed {made.name} --license SPDX --data FILE")


@app.command("list", cls=Verb)
def list_seeds(ctx: typer.Context, as_json: Json = False) -> None:
    """List the seeds."""
    from registry.catalog.queries import list_seeds

    with open_registry(ctx) as registry:
        rows = [seed_shape(seed) for seed in list_seeds(registry)]
    if as_json:
        print_json(rows)
        return
    columns = [
        Column("seed", "Seed", style="bold"),
        Column("model_type", "Family"),
        Column("parameters", "Parameters", show=parameters, justify="right"),
        Column("dtype", "Type"),
        Column("license", "Licence"),
        Column("description", "About"),
    ]
    print_table(rows, columns, empty="no seeds yet: nexusmix seed add NAME PATH --license SPDX")


@app.command(cls=Verb)
def show(ctx: typer.Context, name: Name, as_json: Json = False) -> None:
    """Show one seed with its digests."""
    from registry.catalog.queries import get_seed

    with open_registry(ctx) as registry:
        shape = seed_shape(get_seed(registry, name))
    if as_json:
        print_json(shape)
    else:
        print_fields({"seed": shape["seed"], **_card(shape), "published": shape["created_at"]})


@app.command(cls=Verb)
def delete(
    ctx: typer.Context,
    name: Name,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only report how much space would be freed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Delete a seed that nothing was made from; its name can be used again."""
    from registry.catalog.deletion import delete_seed

    with open_registry(ctx, frees_room=True) as registry:
        deleted = delete_seed(registry, name, dry_run=dry_run)
    print_deleted("seed", deleted, dry_run=dry_run, as_json=as_json)


def _card(shape: dict[str, object]) -> dict[str, object]:
    return {
        "about": shape["description"],
        "licence": shape["license"],
        "family": shape["model_type"],
        "parameters": parameters(int(str(shape["parameters"]))),
        "weights": shape["dtype"],
        "ffn": shape["ffn"],
        "trunk": shape["trunk"],
    }
