"""Download of an export's files: streamed from disk, and resumed by range requests."""

from __future__ import annotations

from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from ui.web.login import opens

NO_KEY = "Open the link on the page of the run again: this one has no key, or it has expired.\n"
NOT_FOUND = "No such file: the export was moved or deleted, or the run exported none.\n"


async def _download(request: Request) -> Response:
    from ui.web.exported import download_path

    asked = download_path(request.path_params["run"], request.path_params["name"])
    if not opens(request.query_params.get("key"), asked):
        return PlainTextResponse(NO_KEY, 403)
    path = await run_in_threadpool(_find, request.path_params["run"], request.path_params["name"])
    if path is None:
        return PlainTextResponse(NOT_FOUND, 404)
    return FileResponse(path, filename=path.name, headers={"x-content-type-options": "nosniff"})


def _find(run_id: int, name: str) -> Path | None:
    """Return the path of a file that the page of this run lists; None for any other name."""
    from registry.errors import NotFoundError
    from registry.queue import runs
    from ui.web.exported import files_of, folder_of
    from ui.web.session import open_once

    try:
        run = runs.get_run(open_once(), run_id)
    except NotFoundError:
        return None
    files = files_of(run)
    return folder_of(run) / name if files and name in files else None


# The page links to it relative to itself.
ROUTES = (Route("/exported/{run:int}/{name}", _download, methods=["GET", "HEAD"]),)
