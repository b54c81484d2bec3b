"""docs/security.md against the settings, the metrics and the flags that it names."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest

from tei_manager.mux import handshake
from tei_manager.settings import Settings, load
from tei_manager.tls import Tls

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")


@pytest.mark.parametrize(
    "setting", sorted(set(re.findall(r"`((?:api|grpc|instances)\.\w+)`", PAGE)))
)
def test_a_setting_that_is_named_exists(setting: str) -> None:
    section, key = setting.split(".")
    assert key in type(getattr(Settings(), section)).model_fields


def test_its_settings_file_asks_for_what_it_says(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.M | re.S)
    file = tmp_path / "x.toml"
    file.write_text(example)
    settings, _ = load(file, environ={})
    grpc, api = Tls.of(settings.grpc), Tls.of(settings.api)
    assert grpc is not None
    assert api is not None
    assert grpc.client_names == ("rag.example", "spiffe://cluster/ns/rag")
    assert (api.client_ca_file, grpc.client_ca_file != "") == ("", True)


def test_every_reason_not_to_come_in_is_on_the_page() -> None:
    after = {"tls_no_h2", "tls_client_name"}
    errors = (ConnectionAbortedError(), ConnectionResetError(), ssl.SSLError(1, "other"))
    reasons = {*handshake._REASONS.values(), *map(handshake.failure, errors), *after}
    assert set(re.findall(r"`(tls_\w+)`", PAGE)) - FIELDS == reasons


FIELDS = {"tls_client_ca_file", "tls_client_names"}
"""Settings that the page names without their section."""


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)", PAGE))
def test_what_the_page_points_to_exists(link: str) -> None:
    assert (ROOT / "docs" / link).exists()
