"""The types of single values, each with the sentence that says what to write instead."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """Base of all tables: never changed, and a key that nobody knows is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)


def text_like(pattern: str, sentence: str) -> tuple[AfterValidator, Any]:
    """Return what makes ``Annotated[str, *...]`` a text that matches a pattern as a whole.

    Args:
        pattern: Stands in the JSON schema, for programs.
        sentence: For people, who are shown this and not the pattern.
    """

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(sentence)
        return value

    return AfterValidator(check), Field(json_schema_extra={"pattern": f"^(?:{pattern})$"})


def check_host(value: str) -> str:
    """Return a host as it is: an address, or a name as it may stand in a Host header."""
    try:
        ipaddress.ip_address(value.removeprefix("[").removesuffix("]"))
    except ValueError:
        if not re.fullmatch(r"[0-9A-Za-z._-]+", value):
            sentence = "write an address or a host name without a port, such as 127.0.0.1"
            raise ValueError(sentence) from None
    return value


# 0 lets the system choose, for tests and for several managers on one machine.
ListenPort = Annotated[int, Field(strict=True, ge=0, le=65535)]
InstancePort = Annotated[int, Field(strict=True, ge=1024, le=65535)]
Count = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Seconds = Annotated[float, Field(strict=True, gt=0, le=86400)]
Switch = Annotated[bool, Field(strict=True)]
Host = Annotated[str, AfterValidator(check_host)]
FileMode = Annotated[str, *text_like(r"0[0-7]{3}", 'write it in octal, such as "0660"')]
