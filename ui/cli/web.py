"""`nexusmix ui`: open the web app on this registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.output import note, print_json

EXAMPLES = examples(
    "nexusmix ui",
    "nexusmix --home .demo ui --port 8600 --no-browser",
    "nexusmix ui --address 0.0.0.0 --trust-network --import-root /data",
)
ACCESS = "Access"


def ui(
    ctx: typer.Context,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, metavar="N", help="Port; else the first free from 8501."),
    ] = None,
    address: Annotated[
        str,
        typer.Option(
            metavar="HOST",
            help="Where to listen. Beyond this machine (0.0.0.0 …) only with --trust-network.",
            rich_help_panel=ACCESS,
        ),
    ] = "localhost",
    trust_network: Annotated[
        bool,
        typer.Option(
            "--trust-network",
            help="State that everyone who can reach the app is trusted: it has no login.",
            rich_help_panel=ACCESS,
        ),
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Another name that the app is opened by, as behind a proxy. Repeatable; needs --trust-network.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    import_root: Annotated[
        list[Path] | None,
        typer.Option(
            envvar="NEXUSMIX_IMPORT_ROOTS",
            metavar="DIR",
            help="A folder that pages may read from. Repeatable. Default: your home, this folder, the temporary "
            "folder and the hub's cache, without hidden ones; none once others can reach the app.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    export_root: Annotated[
        list[Path] | None,
        typer.Option(
            envvar="NEXUSMIX_EXPORT_ROOTS",
            metavar="DIR",
            help="A folder that pages may export to. Repeatable. Default: as above, without the hub's cache.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
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
    from ui.queue.roots import chosen_roots
    from ui.web.launch import choose_port, require_trust, serve

    hosts = allow_host or []
    others = require_trust(address, hosts, trusted=trust_network)
    # An option that was not given is None in some releases of typer and empty in others.
    roots = chosen_roots(import_root or None, export_root or None, only_local=not others)
    with open_registry(ctx) as registry:
        home = registry.home
    chosen = choose_port(address, port)
    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(address, address)
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{chosen}"
    if as_json:
        print_json({"url": url, "home": str(home)})
    else:
        note(f"nexusmix is at {url} (registry {home}); Ctrl-C ends it")
    if others:
        note("whoever can reach it can use it as you do: it has no login")
    raise typer.Exit(
        serve(home, port=chosen, address=address, hosts=hosts, roots=roots, browser=browser, worker=worker)
    )
