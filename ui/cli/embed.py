"""`nexusmix embed`: compute a domain embedding on the machine that stores the private text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ui.cli.kit.context import Json, TextColumn, examples, open_registry
from ui.cli.kit.output import note, print_fields, print_json, progress

EXAMPLES = examples(
    "nexusmix embed ./clinical-notes --seed smol --expert ./expert --out clinical.json",
    "nexusmix contribute clinical ./expert --seed smol --license MIT --embedding clinical.json",
)


def embed(
    ctx: typer.Context,
    data: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="The text: files or folders, as for contribute.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSON file to write the embedding to.")],
    seed: Annotated[
        str | None,
        typer.Option(
            metavar="SEED",
            help="Add a token profile for this seed, so that a mix of whole experts can route to it.",
        ),
    ] = None,
    expert: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Your expert: also measure its strength, on the text that `train-expert` left out. Needs --seed.",
        ),
    ] = None,
    text_column: TextColumn = None,
    as_json: Json = False,
) -> None:
    """Compute the embedding of a domain without sharing its text.

    The file contains vectors, the number of chunks, the hash of the sample and the embedder's name, but no text. With
    `--seed` it also contains the frequencies of the seed's tokens and of 65,536 groups of token pairs in your text, and
    with `--expert` one number: how far from the seed to itself your expert is best.
    """
    if expert is not None and seed is None:
        raise typer.BadParameter("--expert needs --seed, the model that the expert was trained from")
    from composer.chat.format import chat_format
    from registry.catalog import queries
    from registry.domains.embedding import embed_domain, load_embedder, save_embedding
    from registry.domains.reading import read_documents
    from registry.domains.skipped import Skipped, in_words

    with open_registry(ctx) as registry, progress() as report:
        for_seed = None if seed is None else queries.get_seed(registry, seed)  # before any expensive work
        report("load the embedder", 0, 1)
        embedder = load_embedder(registry.embedder)
        report("load the embedder", 1, 1)
        report("embed", 0, 1)
        skipped = Skipped()
        with chat_format(registry.blobs, {} if for_seed is None else for_seed.files, expert) as chat:
            texts = list(read_documents(data, column=text_column, chat=chat, skipped=skipped))
            embedding, _chunks = embed_domain(embedder, texts, plain=chat.plain)
        if for_seed is not None:
            from composer.experts.closed import shared_profile

            found = shared_profile(registry, for_seed, texts, expert)
            embedding = dataclasses.replace(embedding, profile=found)
        report("embed", 1, 1)
        save_embedding(out, embedding)
    shape = {
        "file": str(out),
        "embedder": dataclasses.asdict(embedding.embedder),
        "chunks": embedding.chunk_count,
        "centroids": len(embedding.centroids),
        "sample_sha256": embedding.sample_sha256,
        "token_profile": seed,
        "strength": None if embedding.profile is None else embedding.profile.strength,
        "skipped": skipped.counts(),
    }
    if as_json:
        print_json(shape)
    else:
        left_out = in_words(skipped.counts()) or None
        print_fields({**shape, "embedder": embedding.embedder, "skipped": left_out})
        note(f"next: nexusmix contribute NAME PATH --seed SEED --license SPDX --embedding {out}")
