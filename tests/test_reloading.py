"""What a reload takes over from a changed file, and what waits for the next start."""

from __future__ import annotations

from typing import Any

import pytest

from tei_manager.settings import Settings, reloaded
from tei_manager.settings.reloading import RELOADED


def _settings(section: str, **values: Any) -> Settings:
    return Settings.model_validate({section: values})


def test_value_that_can_change_is_taken_over() -> None:
    wanted = _settings("instances", max=3)
    assert reloaded(Settings(), wanted) == (wanted, [])


def test_value_that_is_bound_at_the_start_is_kept_and_named() -> None:
    wanted = Settings.model_validate({"api": {"port": 1}, "instances": {"max": 3}})
    settings, kept = reloaded(Settings(), wanted)
    assert kept == ["api.port"]
    assert (settings.api.port, settings.instances.max) == (9000, 3)


def test_the_files_instances_are_those_of_the_new_file() -> None:
    table = {"name": "a", "model_id": "m"}
    wanted = Settings.model_validate({"instance": [table]})
    settings, kept = reloaded(Settings(), wanted)
    assert (settings.instance, kept) == (wanted.instance, [])


@pytest.mark.parametrize(("section", "key"), sorted(RELOADED))
def test_every_name_in_the_list_is_a_setting(section: str, key: str) -> None:
    assert key in type(getattr(Settings(), section)).model_fields
