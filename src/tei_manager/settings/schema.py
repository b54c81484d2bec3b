"""The settings as a JSON schema, for editors that complete and check TOML files."""

from __future__ import annotations

from typing import Any

from tei_manager.settings.sections import Settings

TITLE = "Settings of TEI Manager"


def json_schema() -> dict[str, Any]:
    """Return the schema, draft 2020-12, of a settings file."""
    schema = Settings.model_json_schema()
    schema["properties"]["instance"] |= {"description": "Instances that the file owns."}
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **schema, "title": TITLE, "description": Settings.__doc__}
