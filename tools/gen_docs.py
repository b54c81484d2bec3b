"""Make what the documents say about settings and REST from the code; ``--check`` compares only.

    python tools/gen_docs.py [--check]

In the pages under ``docs/`` the text between ``<!-- made: NAME -->`` and ``<!-- end -->`` is made
here; ``examples/every-setting.toml`` and ``examples/settings.schema.json`` are made as a whole.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tei_manager.api.app import create_app
from tei_manager.manager.manager import Manager
from tei_manager.settings import ENVIRONMENT, InstanceSpec, Settings, json_schema
from tei_manager.settings.reloading import RELOADED

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- made: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
VARIABLES = {key: name for name, key in ENVIRONMENT.items()}

# Defaults that differ between platforms or users are described instead.
ELSEWHERE = {
    ("instances", "log_dir"): "the platform's folder for logs",
    ("state", "path"): "`state.db` in the platform's folder for state",
}


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the tables of a settings file, but for ``[[instance]]``."""
    for name, field in Settings.model_fields.items():
        if name != "instance":
            yield name, cast("type[BaseModel]", field.annotation)


def default(field: FieldInfo) -> str:
    """Return a default as TOML writes it; empty for none."""
    if field.is_required() or field.default is None or field.default_factory is not None:
        return ""
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return json.dumps(value)


def settings_table() -> str:
    """Return the settings as a table of Markdown."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for section, model in sections():
        for key, field in model.model_fields.items():
            place = (section, key)
            shown = ELSEWHERE.get(place) or (f"`{default(field)}`" if default(field) else "")
            notes = [field.description or ""]
            if place in VARIABLES:
                notes.append(f"`{VARIABLES[place]}`")
            if place in RELOADED:
                notes.append("↻")
            rows.append(f"| `{section}.{key}` | {shown} | {' '.join(notes)} |")
    return "\n".join(rows) + "\n"


def instance_table() -> str:
    """Return what an instance can be asked to be, as a table of Markdown."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key, field in InstanceSpec.model_fields.items():
        shown = "required" if field.is_required() else (default(field) and f"`{default(field)}`")
        description = (field.description or "").replace("``", "`")
        example = json.dumps(field.examples[0]) if field.examples and field.is_required() else ""
        meaning = description or f"Such as `{example}`."
        rows.append(f"| `{key}` | {shown} | {meaning} |")
    return "\n".join(rows) + "\n"


def document() -> dict[str, Any]:
    """Return the OpenAPI document of a manager with all defaults, which is not started."""
    manager = SimpleNamespace(settings=Settings())
    return create_app(cast("Manager", manager)).openapi()


def operations_table() -> str:
    """Return the operations of the control API as a table of Markdown."""
    rows = ["| method and path | parameters | answers | |", "|---|---|---|---|"]
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            names = [each["name"] for each in operation.get("parameters", ())
                     if each["in"] == "query"]  # fmt: skip
            own = [status for status in operation["responses"] if status not in COMMON]
            summary = operation["description"].splitlines()[0].replace("``", "`")
            rows.append(f"| {method.upper()} `{path}` | {', '.join(f'`{n}`' for n in names)} "
                        f"| {', '.join(own)} | {summary} |")  # fmt: skip
    return "\n".join(rows) + "\n"


COMMON = {"400", "401", "403", "408", "413", "415", "421", "422", "429", "431", "500", "503"}
"""Statuses of errors that every operation may answer with."""


def errors_table() -> str:
    """Return the errors that every operation may answer with, as a table of Markdown."""
    responses = document()["paths"]["/instances"]["post"]["responses"]
    rows = ["| status | code | when |", "|---|---|---|"]
    for status in sorted(COMMON):
        found = responses[status]
        code = found["content"]["application/json"]["example"]["code"]
        rows.append(f"| {status} | `{code}` | {found['description']} |")
    return "\n".join(rows) + "\n"


def example() -> str:
    """Return a settings file that has every setting with its default."""
    lines = ["#:schema ./settings.schema.json", "# Every setting with its default."]
    for section, model in sections():
        lines += ["", f"# {(model.__doc__ or '').splitlines()[0]}", f"[{section}]"]
        for key, field in model.model_fields.items():
            lines += textwrap.wrap(field.description or "", 96, initial_indent="# ",
                                   subsequent_indent="# ", break_on_hyphens=False)  # fmt: skip
            value = default(field)
            lines.append(f"{key} = {value}" if value else f"# {key} = …")
    lines += ["", "# An instance; there may be many such tables.", "[[instance]]",
              'name = "bge-small"', 'model_id = "BAAI/bge-small-en-v1.5"']  # fmt: skip
    for key, field in InstanceSpec.model_fields.items():
        if not field.is_required():
            lines.append(f"# {key} = {default(field) or '…'}")
    return "\n".join(lines) + "\n"


BLOCKS: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "instance": instance_table,
    "operations": operations_table,
    "errors": errors_table,
}


def made() -> dict[Path, str]:
    """Return every file that is made here, whole or in part, with what it should hold."""
    files = {
        ROOT / "examples" / "every-setting.toml": example(),
        ROOT / "examples" / "settings.schema.json": json.dumps(json_schema(), indent=2) + "\n",
    }
    for name in ("configuration.md", "rest.md"):
        page = ROOT / "docs" / name
        text = page.read_text("utf-8")
        files[page] = BLOCK.sub(lambda it: it[1] + BLOCKS[it[2]]() + it[3], text)
    return files


def main() -> None:
    """Write the files, or say which of them are not current."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [path for path, text in made().items()
             if not path.exists() or path.read_text("utf-8") != text]  # fmt: skip
    if check and stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"Not current: {names}; run `make docs`")
    for path in stale:
        path.write_text(made()[path], "utf-8")


if __name__ == "__main__":
    main()
