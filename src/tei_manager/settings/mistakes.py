"""Mistakes in settings as sentences, instead of pydantic's own words for them."""

from __future__ import annotations

import difflib

from pydantic import BaseModel

from tei_manager.settings.instance import InstanceSpec
from tei_manager.settings.sections import Location, Settings


def sentence(location: Location, kind: str, message: str) -> str:
    """Return what is wrong with a value.

    Args:
        location: Of the value.
        kind: pydantic's type of the error.
        message: pydantic's message.
    """
    names = [str(part) for part in location]
    if kind != "extra_forbidden":
        return f"{'.'.join(names)}: {message.removeprefix('Value error, ')}"
    known = _known_keys(names[0] if len(names) > 1 else "")
    near = difflib.get_close_matches(names[-1], known, 1, 0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key '{'.'.join(names)}'; {hint}"


def _known_keys(section: str) -> list[str]:
    if section == "instance":
        return list(InstanceSpec.model_fields)
    if section in Settings.model_fields:
        model = Settings.model_fields[section].annotation
        return list(model.model_fields) if isinstance(model, type(BaseModel)) else []
    return list(Settings.model_fields)
