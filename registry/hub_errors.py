"""Errors of the Hugging Face Hub's client, converted into ours; and the form of its addresses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from registry.checkpoints.safe_files import printable
from registry.errors import HubError, NotFoundError

PREFIX = "hf:"
MOST_WAIT_SECONDS = 60.0


def is_hub(source: str) -> bool:
    """Return whether a source is a repository of the hub, not a folder."""
    return source.startswith(PREFIX)


class Again(Exception):
    """A temporary failure: a time-out, a broken connection or a busy hub, with the requested wait in seconds if any."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@contextmanager
def mapped(source: str, kind: str = "model") -> Iterator[None]:
    """Convert the library's errors into ours."""
    from huggingface_hub import errors

    # the base class of network errors, which depends on the HTTP client of this release
    http_error: type[Any] = next(c for c in errors.HfHubHTTPError.__mro__ if c.__name__ == "HTTPError")
    try:
        yield
    except errors.GatedRepoError as error:
        raise NotFoundError(
            f"{source} is gated: request access on its page, then log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NotFoundError(f"{source}: no such revision on the hub") from error
    except (errors.RepositoryNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise NotFoundError(
            f"{source}: no such {kind} on the hub, or it is private: check the name, or log in with `hf auth login`"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise HubError(
            f"{source}: the hub is not used because HF_HUB_OFFLINE is set: unset it to download"
        ) from error
    except http_error as error:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if status is not None and status not in (408, 429) and status < 500:
            raise HubError(f"{source}: the hub answered with status {status}") from error
        said = f"status {status}" if status else f"{type(error).__name__}: {printable(str(error))}"
        raise Again(said, _retry_after(getattr(response, "headers", {}))) from error


def _retry_after(headers: Mapping[str, str]) -> float | None:
    with contextlib.suppress(ValueError):
        return min(MOST_WAIT_SECONDS, max(0.0, float(headers.get("Retry-After", ""))))
    return None
