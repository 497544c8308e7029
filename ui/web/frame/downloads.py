"""Download of an export's files: streamed from disk, and resumed by range requests."""

from __future__ import annotations

from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

NOT_FOUND = "No such file: the export was moved or deleted, or the run exported none.\n"


async def _download(request: Request) -> Response:
    path = await run_in_threadpool(_find, request.path_params["run"], request.path_params["name"])
    if path is None:
        return PlainTextResponse(NOT_FOUND, 404)
    return FileResponse(path, filename=path.name, headers={"x-content-type-options": "nosniff"})


def _find(run_id: int, name: str) -> Path | None:
    """Return the path of a file that the page of this run lists; None for any other name."""
    from registry.errors import NotFoundError
    from registry.queue import runs
    from ui.web.exported import files_of, folder_of
    from ui.web.session import current_registry

    try:
        run = runs.get_run(current_registry(), run_id)
    except NotFoundError:
        return None
    files = files_of(run)
    return folder_of(run) / name if files and name in files else None


# The page links to it relative to itself.
ROUTES = (Route("/exported/{run:int}/{name}", _download, methods=["GET", "HEAD"]),)
