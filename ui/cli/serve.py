"""`nexusmix serve`: answer OpenAI's API with a mix."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.cli.kit.context import Json, MixRef, examples, open_registry
from ui.cli.kit.output import note, print_json

EXAMPLES = examples(
    "nexusmix serve team",
    "NEXUSMIX_API_KEY=$(openssl rand -hex 24) nexusmix serve team --address 0.0.0.0",
    "curl localhost:8000/v1/models",
)
ACCESS, LIMITS = "Access", "Limits"


def serve(
    ctx: typer.Context,
    mix: MixRef,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Port to listen on. 0 is any free port.")
    ] = 8000,
    address: Annotated[
        str,
        typer.Option(
            metavar="HOST",
            help="Address to listen on. Addresses beyond this machine need an API key.",
            rich_help_panel=ACCESS,
        ),
    ] = "localhost",
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="NEXUSMIX_API_KEY",
            metavar="KEY",
            help="Key that clients must send. Prefer the variable: others can see a command's options.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most tokens of a reply.", rich_help_panel=LIMITS)
    ] = 1024,
    max_request_bytes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Largest request in bytes.", rich_help_panel=LIMITS)
    ] = 2**20,
    queue: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Most requests that wait for their turn.", rich_help_panel=LIMITS
        ),
    ] = 16,
    as_json: Json = False,
) -> None:
    """Serve a mix with OpenAI's API: chat, completions and the list of models.

    Each reply contains the shares of the experts in the field nexusmix. One reply is generated at a time; other
    requests wait. Ctrl-C stops the server after the running replies, within 10 seconds.
    """
    from ui.serving.server import bound_socket, check_key, url_of
    from ui.serving.server import serve as run

    check_key(address, api_key)
    with open_registry(ctx) as registry, bound_socket(address, port) as bound:
        from composer.mix.opening import find_mix, open_mix
        from ui.serving.app import Api, Limits

        record, manifest = find_mix(registry, mix)
        limits = Limits(max_request_bytes, max_tokens, queue)
        created = int(record.created_at.timestamp())
        api = Api(open_mix(registry, manifest), record.ref, created=created, key=api_key, limits=limits)
        url = url_of(address, bound)
        bound.listen()  # before the address is printed, so that a reader of it can connect at once
        if as_json:
            print_json({"url": url, "mix": record.ref})
        else:
            note(f"{record.ref} is at {url}; press Ctrl-C to stop it")
        run(api, bound, address)
