"""Files that a create request may name: those in the folders that were opened to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tei_manager.api.paths import check_paths
from tei_manager.errors import ValidationFailed
from tei_manager.settings import InstanceSpec
from tei_manager.settings.sections import InstancesSettings


def _check(
    rules: InstancesSettings | None = None, model: str = "m", key: str | None = None
) -> None:
    spec = InstanceSpec(name="a", model_id=model, api_key_file=key)
    check_paths(spec, rules or InstancesSettings())


@pytest.mark.parametrize("model", ["m", "BAAI/bge-small-en-v1.5", "a_b/c.d"])
def test_hub_ids_need_no_folder(model: str) -> None:
    _check(model=model)


def test_local_model_must_be_in_an_open_folder_with_links_followed(tmp_path: Path) -> None:
    rules = InstancesSettings(model_dirs=(tmp_path / "models",))
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / "link").symlink_to(tmp_path)
    _check(rules, str(tmp_path / "models" / "mine"))
    for outside in ("models/../x", "models/link/x", "modelsx", "x"):
        with pytest.raises(ValidationFailed, match="model_dirs"):
            _check(rules, str(tmp_path / outside))


def test_key_must_be_in_an_open_folder(tmp_path: Path) -> None:
    _check(InstancesSettings(api_key_dirs=(tmp_path,)), key=str(tmp_path / "key"))
    for rules in (InstancesSettings(), InstancesSettings(model_dirs=(tmp_path,))):
        with pytest.raises(ValidationFailed, match="api_key_dirs"):
            _check(rules, key=str(tmp_path / "key"))


@settings(deadline=None)
@given(st.from_regex(r"[A-Za-z0-9_./~][ -~]{0,40}", fullmatch=True))
def test_accepted_model_is_a_hub_id_or_stays_inside(model: str) -> None:
    root = Path("/srv/models")
    try:
        _check(InstancesSettings(model_dirs=(root,)), model)
    except ValidationFailed:
        return
    if "/" in model.removeprefix(model.split("/")[0] + "/") or model.startswith("/"):
        assert Path(model).resolve().is_relative_to(root)
    else:
        assert not {".", ".."} & set(model.split("/"))
