"""Settings: every source, every mistake at once, with the line that it is on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tei_manager.errors import InvalidSettings
from tei_manager.settings import ENVIRONMENT, InstanceSpec, is_loopback, load

EXAMPLES = Path(__file__).parents[1] / "examples"


def _file(folder: Path, text: str) -> Path:
    path = folder / "x.toml"
    path.write_text(text, "utf-8")
    return path


def _mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(InvalidSettings) as caught:
        load(_file(folder, text), environ={})
    return [sentence.replace(f"{folder}/", "") for sentence in caught.value.mistakes]


def test_defaults_are_those_of_the_contract() -> None:
    settings, origins = load(environ={})
    assert (settings.api.host, settings.api.port) == ("127.0.0.1", 9000)
    assert (settings.grpc.host, settings.grpc.multiplexer_port) == ("127.0.0.1", 9001)
    assert settings.grpc.max_parallel_streams == 1024
    assert (settings.instances.port_start, settings.instances.port_end) == (8081, 8181)
    assert settings.instances.tei_binary == "text-embeddings-router"
    assert settings.health.failures_before_restart == 3
    assert settings.instance == ()
    assert origins == {}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_examples_have_no_mistakes(path: Path) -> None:
    settings, origins = load(path, environ={})
    assert settings.instance
    assert all(spec.port is None for spec in settings.instance)
    for index, spec in enumerate(settings.instance):
        assert origins["instance", index, "name"].startswith(f"{path}:"), spec.name


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = _file(tmp_path, "[api]\nport = 1\n[grpc]\nmultiplexer_port = 2\nworkers = 3")
    environ = {"TEI_MANAGER_API_PORT": "4", "TEI_MANAGER_GRPC_PORT": "5"}
    settings, origins = load(file, environ, {("api", "port"): 6})
    assert settings.api.port == 6
    assert settings.grpc.multiplexer_port == 5
    assert settings.grpc.workers == 3
    assert settings.grpc.max_message_mb == 64
    assert origins == {
        ("api", "port"): "command line",
        ("grpc", "multiplexer_port"): "environment TEI_MANAGER_GRPC_PORT",
        ("grpc", "workers"): f"{file}:5",
    }


def test_every_environment_variable_sets_what_it_says() -> None:
    numbers = {"port", "multiplexer_port", "max_parallel_streams"}
    environ = {
        name: str(number) if key in numbers else f"127.0.0.{number}"
        for number, (name, (_, key)) in enumerate(ENVIRONMENT.items(), 1)
    }
    environ |= {"TEI_MANAGER_API_ALLOW_INSECURE": "true", "TEI_MANAGER_ON_EXIT": "leave"}
    settings, _ = load(environ=environ)
    for name, (section, key) in ENVIRONMENT.items():
        assert str(getattr(getattr(settings, section), key)).lower() == environ[name]


@pytest.mark.parametrize("text", ["1", "yes", "True", ""])
def test_switch_in_the_environment_is_true_or_false_and_nothing_else(text: str) -> None:
    assert load(environ={"TEI_MANAGER_API_ALLOW_INSECURE": "false"})[0].api.allow_insecure is False
    with pytest.raises(InvalidSettings, match=r"ALLOW_INSECURE: .* boolean"):
        load(environ={"TEI_MANAGER_API_ALLOW_INSECURE": text})


def test_all_mistakes_are_told_at_once_each_with_its_line(tmp_path: Path) -> None:
    text = """
[api]
prot = 9000
port = "9000"

[health]
interval_secs = -1

[[instance]]
name = "good"
model_id = "m"

[[instance]]
name = "Bad"
model_id = "m"
pooling = "meen"

[grcp]
workers = 1
"""
    assert [sentence.partition(": ")[::2] for sentence in _mistakes(tmp_path, text)] == [
        ("x.toml:3", "unknown key 'api.prot'; did you mean 'port'?"),
        ("x.toml:4", "api.port: Input should be a valid integer"),
        ("x.toml:7", "health.interval_secs: Input should be greater than 0"),
        (
            "x.toml:14",
            "instance.1.name: use 1 to 63 of a-z, 0-9, '.', '_' and '-', "
            "the first a letter or digit",
        ),
        (
            "x.toml:16",
            "instance.1.pooling: Input should be 'cls', 'mean', 'splade' or 'last-token'",
        ),
        ("x.toml:18", "unknown key 'grcp'; did you mean 'grpc'?"),
    ]


def test_key_that_resembles_none_lists_the_known_ones(tmp_path: Path) -> None:
    (sentence,) = _mistakes(tmp_path, "[health]\nzzz = 1")
    assert sentence == (
        "x.toml:2: unknown key 'health.zzz'; known keys: failures_before_restart, interval_secs"
    )


def test_what_is_missing_points_at_its_table(tmp_path: Path) -> None:
    text = '[[instance]]\nname = "a"\nmodel_id = "m"\n\n[[instance]]\nname = "b"\n'
    (sentence,) = _mistakes(tmp_path, text)
    assert sentence == "x.toml:5: instance.1.model_id: Field required"


def test_text_that_is_not_toml_is_told_with_its_line(tmp_path: Path) -> None:
    (sentence,) = _mistakes(tmp_path, "[api]\nport = x\n")
    assert sentence.startswith("x.toml:2: not TOML: ")


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    sentence = r"none\.toml: cannot be read: no such file or directory; check --config$"
    with pytest.raises(InvalidSettings, match=sentence):
        load(tmp_path / "none.toml", environ={})


def test_file_in_another_encoding_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes("# é".encode("latin-1"))
    with pytest.raises(InvalidSettings, match=r"x\.toml: cannot be read: it is not UTF-8"):
        load(tmp_path / "x.toml", environ={})


def test_mistake_in_the_environment_names_the_variable() -> None:
    with pytest.raises(InvalidSettings, match=r"environment TEI_MANAGER_API_PORT: api\.port"):
        load(environ={"TEI_MANAGER_API_PORT": "http"})


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[api]\nport = 9001", "both 9001"),
        ('[api]\nhost = "0.0.0.0"', "allow_insecure"),
        ('[api]\nhost = "127.0.0.1:9000"', "without a port"),
        ('[api]\ncors_origins = ["*"]', "as a browser sends it"),
        ("[instances]\nport_start = 9000\nport_end = 8000", "swap"),
        ("[instances]\nmetrics_port_start = 9500", "swap"),
        ('[grpc]\ntls_cert_file = "c.pem"', "grpc.tls_cert_file needs grpc.tls_key_file"),
        ('[api]\ntls_key_file = "k.pem"', "api.tls_key_file needs api.tls_cert_file"),
        ('[grpc]\ntls_client_ca_file = "ca.pem"', "needs grpc.tls_cert_file"),
        ('[grpc]\ntls_client_names = ["a"]', "needs grpc.tls_client_ca_file"),
        ('[grpc]\nuds_mode = "660"', "write it in octal"),
        ("api = 1", "api"),
        ("instance = 1", "instance"),
    ],
)
def test_contradictions_are_mistakes(tmp_path: Path, text: str, word: str) -> None:
    assert any(word in sentence for sentence in _mistakes(tmp_path, text))


def test_two_instances_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    table = '[[instance]]\nname = "a"\nmodel_id = "m"\n'
    assert _mistakes(tmp_path, table * 2) == [
        "x.toml:5: two [[instance]] tables are named 'a'; rename one of them"
    ]


def test_contradictions_are_told_beside_mistakes_with_the_right_lines(tmp_path: Path) -> None:
    text = """
[api]
port = 9001
prot = 1
[[instance]]
name = "BAD"
model_id = "m"
[[instance]]
name = "a"
model_id = "m"
port = 9001
[[instance]]
name = "a"
model_id = "m"
[instances]
max = 1
"""
    places = [sentence.partition(": ") for sentence in _mistakes(tmp_path, text)]
    assert [(place, words.partition(" ")[0]) for place, _, words in places] == [
        ("x.toml:3", "api.port"),
        ("x.toml:4", "unknown"),
        ("x.toml:6", "instance.0.name:"),
        ("x.toml:11", "port"),
        ("x.toml:12", "there"),
        ("x.toml:13", "two"),
    ]


def test_open_api_needs_an_explicit_word(tmp_path: Path) -> None:
    file = _file(tmp_path, '[api]\nhost = "0.0.0.0"\nallow_insecure = true')
    assert load(file, environ={})[0].api.host == "0.0.0.0"
    file = _file(tmp_path, '[api]\nhost = "0.0.0.0"\ntoken_file = "token"')
    assert load(file, environ={})[0].api.host == "0.0.0.0"
    pair = 'host = "0.0.0.0"\ntls_cert_file = "c"\ntls_key_file = "k"'
    file = _file(tmp_path, f'[api]\n{pair}\ntls_client_ca_file = "ca"')
    assert load(file, environ={})[0].api.host == "0.0.0.0"
    assert any("opens an API" in sentence for sentence in _mistakes(tmp_path, f"[api]\n{pair}"))


def test_number_in_the_environment_stays_a_text_where_a_text_is_meant() -> None:
    assert load(environ={"TEI_BINARY_PATH": "123"})[0].instances.tei_binary == "123"


def _outcome(file: Path) -> list[str]:
    """The mistakes in a file; any other exception is a bug."""
    try:
        load(file, environ={})
    except InvalidSettings as error:
        return error.mistakes or [""]
    return []


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=40)
    | st.from_regex(r"(\[{1,2}(api|grpc|instance|x)\]{1,2}\n([a-z_]{1,6} = [0-9\"a]{1,4}\n)?){1,4}")
)
def test_any_text_is_settings_or_mistakes_with_a_place(tmp_path: Path, text: str) -> None:
    file = _file(tmp_path, text.replace("\r", ""))
    assert all(sentence for sentence in _outcome(file))


@pytest.mark.parametrize(
    "fields",
    [
        {"backend": "external"},
        {"address": "127.0.0.1:80"},
        {"extra_args": ["--port=1"]},
        {"max_batch_tokens": 0},
        {"max_batch_tokens": "1"},
        {"port": 80},
        {"gpu_id": -1},
        {"model_id": "--port=1"},
        {"model_id": ""},
        {"revision": "-x"},
        {"autostart": "yes"},
        {"colour": "red"},
        {"name": "a/b"},
    ],
)
def test_spec_that_says_what_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        InstanceSpec.model_validate({"name": "a", "model_id": "m", **fields})


@given(st.builds(InstanceSpec, name=st.just("a"), model_id=st.just("m"), gpu_id=st.none()))
def test_spec_survives_its_json(spec: InstanceSpec) -> None:
    assert InstanceSpec.model_validate_json(spec.model_dump_json()) == spec


@given(st.text(max_size=70) | st.from_regex(r"[./a-z0-9_\\-]{1,70}", fullmatch=True))
def test_accepted_name_is_one_file_below_the_folder_of_logs(name: str) -> None:
    try:
        InstanceSpec(name=name, model_id="m")
    except ValidationError:
        return
    folder = Path("/logs")
    file = (folder / f"{name}.log").resolve()
    assert file.parent == folder
    assert file.name == f"{name}.log"
    assert not name.startswith(".")


def test_only_loopback_counts_as_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "")))


KEYS = st.sampled_from(["api", "grpc", "instance", "log", "name", "model_id", "port", "host", "x"])
VALUES = st.recursive(
    st.booleans() | st.integers(-1, 99999) | st.floats(0, 9) | st.sampled_from(["", "a", "::1"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=6,
)


def _toml(value: Any) -> str:
    """Write a value as TOML does, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEYS, VALUES, max_size=3))
def test_any_document_is_settings_or_mistakes_with_a_place(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    text = "\n".join(f"{key} = {_toml(value)}" for key, value in document.items())
    assert all(sentence.startswith(f"{tmp_path}") for sentence in _outcome(_file(tmp_path, text)))
