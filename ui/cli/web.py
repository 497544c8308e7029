"""`nexusmix ui`: open the web app on this registry."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ui.cli.kit.context import Json, examples, open_registry
from ui.cli.kit.output import note, print_json

EXAMPLES = examples(
    "nexusmix ui",
    "nexusmix --home .demo ui --port 8600 --no-browser",
    "nexusmix ui --address 0.0.0.0 --import-root /data",
)
ACCESS = "Access"


def ui(
    ctx: typer.Context,
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            metavar="N",
            help="Port to listen on.",
            show_default="the first free port from 8501",
        ),
    ] = None,
    address: Annotated[
        str,
        typer.Option(
            metavar="HOST",
            help="Address to listen on. Beyond this machine, visitors must log in.",
            rich_help_panel=ACCESS,
        ),
    ] = "localhost",
    login: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="Login of the visitors: token (of `nexusmix users`), or oidc, a provider configured for Streamlit.",
            show_default="token if others can reach the app, none on localhost",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Another host name of the app, for instance behind a proxy. Repeatable; visitors must log in.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    import_root: Annotated[
        list[Path] | None,
        typer.Option(
            envvar="NEXUSMIX_IMPORT_ROOTS",
            metavar="DIR",
            help="A folder that the app may read from. Repeatable. Default: your home, the current folder, the "
            "temporary folder and the Hugging Face cache, without hidden folders. None if others can reach the app.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    export_root: Annotated[
        list[Path] | None,
        typer.Option(
            envvar="NEXUSMIX_EXPORT_ROOTS",
            metavar="DIR",
            help="A folder that the app may export to. Repeatable. Default: as above, without the Hugging Face cache.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the app in a browser.")
    ] = True,
    worker: Annotated[
        bool,
        typer.Option(
            "--worker/--no-worker", help="Also start a worker, which executes queued runs until the app ends."
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Open the web app: find experts, compose them and try the mix in a browser.

    Ctrl-C stops the app. An active run is then queued again for the next worker.
    """
    from ui.queue.roots import chosen_roots
    from ui.web.launch import check_login, is_shared, serve

    hosts = allow_host or []
    others = is_shared(address, hosts)
    # An absent option is None in some releases of typer and an empty list in others.
    roots = chosen_roots(import_root or None, export_root or None, only_local=not others)
    with open_registry(ctx) as registry:
        home = registry.home
        method = check_login(registry, login, shared=others)

    def listening(chosen: int) -> None:
        shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(address, address)
        url = f"http://{f'[{shown}]' if ':' in shown else shown}:{chosen}"
        if as_json:
            print_json({"url": url, "home": str(home)})
        else:
            note(f"nexusmix is at {url} (registry {home}); press Ctrl-C to stop it")
        if others:
            note("visitors log in; use a proxy with TLS, because tokens cross the network")
        if browser and _has_display():
            typer.launch(url)

    raise typer.Exit(
        serve(
            home,
            listening=listening,
            port=port,
            address=address,
            hosts=hosts,
            roots=roots,
            login=method,
            worker=worker,
        )
    )


def _has_display() -> bool:
    """Return whether a graphical browser can open. Without one, Linux would open a text browser in this terminal."""
    return not sys.platform.startswith("linux") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
