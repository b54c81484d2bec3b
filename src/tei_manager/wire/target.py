"""Read a routing target, the one part of a request that the switch has to understand."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from tei_manager.wire.fields import LENGTH, MalformedMessage, read_fields


class TargetKind(Enum):
    """Which member of a target's oneof is set."""

    NAME = "instance_name"
    INDEX = "index"
    MODEL = "model"
    UNKNOWN = "unknown"  # only fields that we do not know: a strategy of later clients


class Target(NamedTuple):
    """A decoded target: ``value`` is an index for `TargetKind.INDEX`, else text."""

    kind: TargetKind
    value: str | int = ""


def read_target(target: bytes) -> Target | None:
    """Return the member that a target sets, the last one if there are several; None if none.

    Two numberings are in use for the last two members, and their wire types tell them apart: fields
    2 and 3 are an index when they are numbers, and a model when they are text.

    Raises:
        MalformedMessage: It is no message, or a text in it is not UTF-8.
    """
    found: Target | None = None
    for number, kind, value in read_fields(target):
        if number in (2, 3) and isinstance(value, int):
            found = Target(TargetKind.INDEX, value & 0xFFFF_FFFF)
        elif number in (1, 2, 3) and kind == LENGTH and isinstance(value, bytes):
            member = TargetKind.NAME if number == 1 else TargetKind.MODEL
            found = Target(member, _text(value, member))
        elif found is None:
            found = Target(TargetKind.UNKNOWN)
    return found


def _text(value: bytes, member: TargetKind) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise MalformedMessage(error.start, f"target.{member.value} is not UTF-8") from None
