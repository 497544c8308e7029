"""`nexusmix serve`: answer OpenAI's API with a mix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ui.cli.kit.context import Json, MixRef, examples, open_registry, warn_of_withdrawn
from ui.cli.kit.output import note, print_json
from ui.cli.kit.sampling import TemplateOf

if TYPE_CHECKING:
    from composer.chat.templates import ChatTemplate
    from composer.errors import ChatTemplateError
    from composer.mix.opening import Manifest
    from registry.home import Registry

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
            help="Address to listen on. Addresses beyond this machine need an API key or accounts.",
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
    template: TemplateOf = None,
    as_json: Json = False,
) -> None:
    """Serve a mix with OpenAI's API: chat, completions and the list of models.

    Each reply contains the shares of the experts in the field nexusmix. One reply is generated at a time; other
    requests wait. Ctrl-C stops the server after the running replies, within 10 seconds.
    """
    from ui.serving.server import bound_socket, check_key, token_check, url_of
    from ui.serving.server import serve as run
    from ui.web.launch import is_local

    with open_registry(ctx) as registry:
        from registry.accounts import has_accounts

        check_key(address, api_key, has_accounts=has_accounts(registry))
    with open_registry(ctx) as registry, bound_socket(address, port) as bound:
        warn_of_withdrawn(registry, mix)
        from composer.chat.renderer import Renderer
        from composer.mix.opening import find_mix

        record, manifest = find_mix(registry, mix)
        chosen = _template(registry, manifest, template)
        with Renderer() as renderer:
            from composer.chat.conversation import Chat
            from composer.mix.opening import open_mix
            from ui.serving.app import Api, Limits

            opened = open_mix(registry, manifest)
            api = Api(
                opened,
                record.ref,
                chat=chosen if isinstance(chosen, Exception) else Chat(opened, chosen, renderer),
                created=int(record.created_at.timestamp()),
                key=api_key,
                admits=None if is_local(address) else token_check(registry),
                limits=Limits(max_request_bytes, max_tokens, queue),
            )
            url = url_of(address, bound)
            bound.listen()  # before the address is printed, so that its reader can connect at once
            if as_json:
                print_json({"url": url, "mix": record.ref, "chat": not isinstance(chosen, Exception)})
            else:
                note(f"{record.ref} is at {url}; press Ctrl-C to stop it")
                note(
                    f"no chat: {chosen}"
                    if isinstance(chosen, Exception)
                    else f"chat template: {chosen.origin}"
                )
            run(api, bound, address)


def _template(registry: Registry, manifest: Manifest, expert: str | None) -> ChatTemplate | ChatTemplateError:
    """Return the chat template, or the reason why there is none: completions work without one."""
    from composer.chat.templates import template_of
    from composer.errors import ChatTemplateError

    try:
        return template_of(registry.blobs, manifest, expert)
    except ChatTemplateError as error:
        return error
