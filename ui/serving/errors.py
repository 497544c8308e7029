"""Errors of the API in the shape that OpenAI's clients expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

INVALID = "invalid_request_error"


@dataclass
class ApiError(Exception):
    """A refused request: HTTP status, message, and the fields `type`, `code` and `param` of OpenAI's errors."""

    status: int
    message: str
    type: str = INVALID
    code: str | None = None
    param: str | None = None

    def body(self) -> dict[str, Any]:
        """Return the error as JSON."""
        fields = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields}

    def headers(self) -> dict[str, str]:
        """Return the headers of the response."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": "1"} if self.status == 429 else {}


def api_error(error: BaseException) -> ApiError:
    """Return the answer to an error. An unexpected one reveals nothing of the server."""
    from composer.errors import ComposerError, PromptTooLongError, RecipeError
    from registry.errors import InvalidInputError

    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptTooLongError):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, (RecipeError, InvalidInputError)):
        return ApiError(400, str(error))
    if isinstance(error, ComposerError):
        return ApiError(422, str(error))
    return ApiError(500, "the server failed; its log has the reason", type="server_error")
