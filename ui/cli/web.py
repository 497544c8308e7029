"""`nexusmix ui`: open the web app on this registry."""

from __future__ import annotations

from typing import Annotated

import typer

from ui.cli.context import Json, examples, open_registry
from ui.cli.output import note, print_json

EXAMPLES = examples("nexusmix ui", "nexusmix --home .demo ui --port 8600 --no-browser")


def ui(
    ctx: typer.Context,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, metavar="N", help="Port; else the first free from 8501."),
    ] = None,
    address: Annotated[
        str, typer.Option(metavar="HOST", help="Where to listen; 0.0.0.0 lets other machines in.")
    ] = "localhost",
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    worker: Annotated[
        bool,
        typer.Option("--worker/--no-worker", help="Execute what is queued as long as the app is open."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Find experts, compose them and play with the mix in a browser.

    Ctrl-C ends it; a run that is under way then waits for the next worker.
    """
    from ui.launch import choose_port, serve

    with open_registry(ctx) as registry:
        home = registry.home
    chosen = choose_port(address, port)
    url = f"http://{'localhost' if address == '0.0.0.0' else address}:{chosen}"
    if as_json:
        print_json({"url": url, "home": str(home)})
    else:
        note(f"nexusmix is at {url} (registry {home}); Ctrl-C ends it")
    raise typer.Exit(serve(home, port=chosen, address=address, browser=browser, worker=worker))
