"""How an instance is started: its arguments, its environment, its process group."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tei_manager.errors import LaunchFailed
from tei_manager.manager.launcher import (
    arguments,
    environment,
    find_program,
    read_api_key,
)
from tei_manager.settings import MANAGED_FLAGS, InstanceSpec

SPEC = InstanceSpec(name="a", model_id="org/model")


def test_arguments_are_flags_with_their_values_in_one_word() -> None:
    spec = SPEC.model_copy(update={"pooling": "mean", "extra_args": ("--auto-truncate=false",)})
    assert arguments(spec, 8081, 9100) == [
        "--model-id=org/model",
        "--pooling=mean",
        "--max-batch-tokens=16384",
        "--max-concurrent-requests=512",
        "--hostname=127.0.0.1",
        "--port=8081",
        "--prometheus-port=9100",
        f"--uds-path={tempfile.gettempdir()}/tei-manager-8081",
        "--json-output",
        "--auto-truncate=false",
    ]


@given(st.text(max_size=20), st.lists(st.text(max_size=20), max_size=3))
def test_whatever_is_accepted_sets_no_managed_flag_twice(model: str, extra: list[str]) -> None:
    extra = [*extra, *(f"--{text}" for text in extra)]
    try:
        spec = InstanceSpec(name="a", model_id=model, extra_args=tuple(extra))
    except ValidationError:
        return
    words = arguments(spec, 1, 2)
    assert all(re.fullmatch(r"--[a-z0-9][a-z0-9-]*(=.*)?", word) for word in words)
    flags = [word.partition("=")[0] for word in words]
    assert all(flags.count(flag) <= 1 for flag in MANAGED_FLAGS)


def test_environment_keeps_what_a_model_needs_and_nothing_else() -> None:
    parent = {"PATH": "p", "HF_TOKEN": "t", "PORT": "1", "API_KEY": "k", "TEI_SECRET": "s"}
    assert environment(SPEC, parent, "") == {"PATH": "p", "HF_TOKEN": "t"}
    assert environment(SPEC, parent, "mine")["API_KEY"] == "mine"


def test_environment_of_teis_own_images_reaches_the_router() -> None:
    image = {"LD_PRELOAD": "l", "MKL_ENABLE_INSTRUCTIONS": "m", "RAYON_NUM_THREADS": "8",
             "LD_LIBRARY_PATH": "p", "HUGGINGFACE_HUB_CACHE": "d",
             "USE_FLASH_ATTENTION": "False"}  # fmt: skip
    assert environment(SPEC, image | {"PORT": "80"}, "") == image


def test_engine_takes_the_place_of_a_missing_router_and_says_so() -> None:
    program = find_program(SPEC, "no-such-router")
    assert program.kind == "engine"
    assert program.command == (sys.executable, "-m", "tei_manager.engine")
    assert "no-such-router" in program.note


def test_router_that_is_there_is_preferred(tmp_path: Path) -> None:
    program = find_program(SPEC, sys.executable)
    assert (program.kind, program.command, program.note) == ("tei", (sys.executable,), "")
    forced = SPEC.model_copy(update={"backend": "engine"})
    assert find_program(forced, sys.executable).kind == "engine"


def test_api_key_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret \nrest\n")
    assert read_api_key(str(tmp_path / "key")) == "secret"
    assert read_api_key(None) == ""
    with pytest.raises(LaunchFailed, match="cannot be read"):
        read_api_key(str(tmp_path / "none"))


def _router() -> argparse.ArgumentParser:
    """A parser with the managed flags; like the most lenient router, it completes prefixes."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    for flag in MANAGED_FLAGS:
        parser.add_argument(flag, action="append", nargs="?")
    return parser


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            "".join,
            st.tuples(
                st.sampled_from(["--", "-", ""]),
                st.sampled_from([flag[2:] for flag in MANAGED_FLAGS]).flatmap(
                    lambda flag: st.sampled_from([flag[:cut] for cut in range(len(flag) + 1)])
                ),
                st.sampled_from(["", "x", "=1", " 1", "=--port"]),
            ),
        ),
        max_size=3,
    )
)
def test_whatever_is_accepted_the_managed_flags_are_the_managers(extra: list[str]) -> None:
    try:
        spec = InstanceSpec(name="a", model_id="m", extra_args=tuple(extra))
    except ValidationError:
        return
    argv = arguments(spec, 8081, 9100)
    known, unknown = _router().parse_known_args(argv)
    assert known.port == ["8081"]
    assert known.hostname == ["127.0.0.1"]
    assert all(values is None or len(values) == 1 for values in vars(known).values())
    assert unknown == extra
