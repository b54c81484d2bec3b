"""Which files a create request may name.

Whoever can reach the API can create instances. Were they free to name files, one with a local
listener could be sent the first line of any file that the manager reads, as an instance's key.
The settings file is the operator's own, so its ``[[instance]]`` tables may name any file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tei_manager.errors import ValidationFailed
from tei_manager.settings import InstanceSpec
from tei_manager.settings.sections import InstancesSettings

# As the hub has them: an owner, which may be left out, and a name.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


def check_paths(spec: InstanceSpec, rules: InstancesSettings) -> None:
    """Refuse a request that names a file outside of the folders that are open to requests.

    Raises:
        ValidationFailed: It names one; the sentence says which setting opens its folder.
    """
    check_model(spec.model_id, rules)
    if spec.api_key_file is not None and not _below(spec.api_key_file, rules.api_key_dirs):
        raise ValidationFailed("api_key_file: it is not in one of [instances] api_key_dirs")


def check_model(model_id: str, rules: InstancesSettings) -> None:
    """Refuse what is neither an id of the hub nor a folder that is open to requests.

    Raises:
        ValidationFailed: It is neither.
    """
    if not _HUB_ID.fullmatch(model_id) and not _below(model_id, rules.model_dirs):
        raise ValidationFailed(
            f"model_id: '{model_id}' is neither a hub id nor in one of [instances] model_dirs"
        )


def _below(name: str, folders: Iterable[Path]) -> bool:
    """Return whether an absolute path, with its links followed, is inside one of the folders."""
    path = Path(name)
    try:
        return path.is_absolute() and any(
            path.resolve().is_relative_to(folder.resolve()) for folder in folders
        )
    except (OSError, ValueError, RuntimeError):
        return False
