"""Errors become answers here, and only here, all in one shape."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tei_manager.api.schemas import ProblemView
from tei_manager.errors import TeiManagerError

log = logging.getLogger(__name__)

# A caller's own text must not make an answer, or a line of the log, as long as the caller likes.
_LONGEST = 2000


def problem(
    status: int, code: str, error: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return an error as an answer.

    Args:
        status: Of HTTP.
        code: Stable, for programs.
        error: One sentence, for people.
        headers: To send along.
    """
    view = ProblemView(error=error[:_LONGEST], code=code, timestamp=datetime.now(UTC))
    return JSONResponse(view.model_dump(mode="json"), status, headers)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the part of a route's OpenAPI document that says which errors it answers with."""
    common = {400, 403, 413, 415, 421, 422, 500}
    return {status: {"model": ProblemView} for status in sorted(common | set(statuses))}


def install(app: FastAPI) -> None:
    """Make the application answer every error in the one shape, the framework's own included."""
    app.add_exception_handler(TeiManagerError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(Exception, _bug)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TeiManagerError)
    if error.http_status >= 500:
        log.error("%s %s: %s", request.method, request.url.path, error)
    return problem(error.http_status, error.code, str(error))


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    details = error.errors()
    if any(detail["type"] == "json_invalid" for detail in details):
        return problem(400, "INVALID_JSON", "The body is not JSON")
    return problem(422, "VALIDATION_ERROR", "; ".join(_sentence(detail) for detail in details))


def _sentence(detail: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"][1:]) or str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        return f"unknown field '{where}'"
    return f"{where}: {detail['msg'].removeprefix('Value error, ')}"


async def _framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    sentence = {
        404: f"No such path: {request.url.path}; see /docs",
        405: f"{request.method} is not allowed for {request.url.path}; see /docs",
        400: "The request body cannot be read",
    }.get(status, str(error.detail))
    headers = dict(error.headers) if error.headers else None
    return problem(status, status.name, sentence, headers)


async def _bug(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "INTERNAL_ERROR", "Internal error; the manager's log has the details")
