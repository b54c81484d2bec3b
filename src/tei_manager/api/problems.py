"""Errors become answers here, and only here, all in one shape."""

from __future__ import annotations

import logging
import re
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
    view = ProblemView(error=_plain(error), code=code, timestamp=datetime.now(UTC))
    return JSONResponse(view.model_dump(mode="json"), status, headers)


_WHEN: dict[int, tuple[str, str, str]] = {
    400: ("The body is not JSON.", "INVALID_JSON", "The body is not JSON"),
    401: ("A token is needed.", "UNAUTHENTICATED", "The token is not one of [api] token_file"),
    403: ("Another web site asks.", "FORBIDDEN", "Requests from other web sites are refused"),
    404: ("There is none.", "INSTANCE_NOT_FOUND", "Instance 'bge-small' not found"),
    405: ("Another method.", "METHOD_NOT_ALLOWED", "PUT is not allowed for /instances; see /docs"),
    408: ("Too slow.", "REQUEST_TIMEOUT", "The body did not come within 10 s"),
    409: (
        "It has no meaning in this state, or clashes with another instance.",
        "INVALID_INSTANCE_STATE",
        "Instance 'bge-small' is being stopped; wait until it has ended",
    ),
    413: ("Too large.", "CONTENT_TOO_LARGE", "A body may have at most 65536 bytes"),
    415: (
        "The body is not declared as JSON.",
        "UNSUPPORTED_MEDIA_TYPE",
        "A body needs 'Content-Type: application/json'",
    ),
    421: (
        "The Host header names another server.",
        "MISDIRECTED_REQUEST",
        "The Host header names another server; set [api] allowed_hosts if it is ours",
    ),
    422: ("Something in it cannot be.", "VALIDATION_ERROR", "unknown field 'nmae'"),
    429: (
        "Too many requests; `Retry-After` says when to try again.",
        "TOO_MANY_REQUESTS",
        "More than 20 requests a second; try again in 1 s",
    ),
    431: (
        "Too many headers.",
        "HEADERS_TOO_LARGE",
        "Send at most 50 headers, 16384 bytes in all",
    ),
    500: (
        "A fault of the manager.",
        "INTERNAL_ERROR",
        "Internal error; the manager's log has the details",
    ),
    503: (
        "The token file cannot be used, or there are too many connections.",
        "TOKEN_FILE_UNUSABLE",
        "The token file of this API cannot be used; the manager's log says why",
    ),
}


def _plain(text: str) -> str:
    """Return a text with what a caller may have put into it cut, and made fit to be shown."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in text[:_LONGEST]
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the part of a route's OpenAPI document that says which errors it answers with.

    Args:
        statuses: Those besides what every operation has.
    """
    common = {400, 401, 403, 408, 413, 415, 421, 422, 429, 431, 500, 503}
    return {status: _described(status) for status in sorted(common | set(statuses))}


def _described(status: int) -> dict[str, Any]:
    description, code, error = _WHEN[status]
    example = {"error": error, "code": code, "timestamp": "2026-01-31T12:00:00.000000Z"}
    content = {"application/json": {"example": example}}
    return {"model": ProblemView, "description": description, "content": content}


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
    allow = status == HTTPStatus.METHOD_NOT_ALLOWED
    headers = {"allow": ", ".join(_allowed(request))} if allow else dict(error.headers or {})
    return problem(status, status.name, sentence, headers)


def _allowed(request: Request) -> list[str]:
    """Return the methods of a path, of which the framework knows only those of one route."""
    for template, operations in request.app.openapi()["paths"].items():
        # A model's id may have slashes, so that what can be done with a model comes before it.
        pattern = re.sub(r"{\w+}", "[^/]+", template.replace("{model_id}", ".+"))
        if re.fullmatch(pattern, request.url.path):
            methods = {method.upper() for method in operations}
            return sorted(methods | {"HEAD"} if "GET" in methods else methods)
    return []


async def _bug(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "INTERNAL_ERROR", "Internal error; the manager's log has the details")
