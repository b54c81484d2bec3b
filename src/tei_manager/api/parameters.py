"""What every operation has in common: its parameters, and the token."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.security import HTTPBearer

from tei_manager.errors import ValidationFailed

Wait = Annotated[
    float,
    Query(
        ge=0,
        le=600,
        description="Seconds to wait until the instance has settled: it runs, is stopped, or "
        "failed. 0 answers at once.",
        examples=[30],
    ),
]


async def refuse_unknown(request: Request) -> None:
    """Refuse a query parameter that the operation does not have, as a body's unknown field is.

    Like most that operations depend on, it waits for nothing and is asynchronous all the same: a
    plain function would be run in a thread, which costs ten times as much as what it does.

    Raises:
        ValidationFailed: There is one.
    """
    path = request.app.openapi()["paths"][request.scope["route"].path_format]
    parameters = path[request.method.lower()].get("parameters", ())
    known = sorted(each["name"] for each in parameters if each["in"] == "query")
    if unknown := request.query_params.keys() - set(known):
        names = ", ".join(f"'{name}'" for name in sorted(unknown))
        hint = f"known: {', '.join(known)}" if known else "there are none here"
        raise ValidationFailed(f"unknown parameter {names}; {hint}")


COMMON = [Depends(refuse_unknown)]
"""Dependencies of every operation."""

TOKEN = Depends(
    HTTPBearer(scheme_name="token", auto_error=False, description="One of [api] token_file.")
)
"""Tells the OpenAPI document that an operation needs the token; `Authorization` checks it."""
