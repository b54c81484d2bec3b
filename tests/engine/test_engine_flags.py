from __future__ import annotations

import pytest

from tei_manager.engine import flags as flags_module
from tei_manager.engine.flags import Flags, parse_flags

MODEL = ("--model-id", "m")


def _parse(*argv: str, **environ: str) -> Flags:
    return parse_flags([*MODEL, *argv], environ)


def test_the_defaults_are_those_of_the_router() -> None:
    flags = _parse()
    assert (flags.hostname, flags.port, flags.prometheus_port) == ("0.0.0.0", 3000, 9000)
    assert (flags.max_concurrent_requests, flags.max_batch_tokens) == (512, 16384)
    assert (flags.max_batch_requests, flags.max_client_batch_size) == (None, 32)
    assert (flags.auto_truncate, flags.json_output, flags.api_key) == (True, False, None)
    assert 1 <= flags.tokenization_workers <= 64
    assert flags.intra_op_threads >= 1


def test_every_flag_of_the_router_is_taken() -> None:
    _parse(
        *("--revision", "main", "--tokenization-workers", "2", "--dtype", "float32"),
        *("--pooling", "last-token", "--max-concurrent-requests", "5", "--max-batch-tokens", "9"),
        *("--max-batch-requests", "3", "--max-client-batch-size", "4", "--auto-truncate"),
        *("--default-prompt", "q: ", "--dense-path", "d", "--hf-token", "t", "-p", "1"),
        *("--hostname", "::1", "--uds-path", "u", "--huggingface-hub-cache", "c"),
        *("--payload-limit", "1", "--api-key", "k", "--json-output", "--disable-spans"),
        *("--otlp-endpoint", "o", "--otlp-service-name", "n", "--prometheus-port", "2"),
        *("--cors-allow-origin", "*", "--served-model-name", "s"),
    )


def test_a_flag_comes_before_its_environment_twin() -> None:
    assert _parse(PORT="7").port == 7
    assert _parse("--port", "8", PORT="7").port == 8
    assert parse_flags([], {"MODEL_ID": "m"}).model_id == "m"


def test_switches_take_true_and_false_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert _parse(JSON_OUTPUT="true").json_output
    assert not _parse("--auto-truncate", "false").auto_truncate
    with pytest.raises(SystemExit):
        _parse(JSON_OUTPUT="1")
    assert "JSON_OUTPUT must be true or false, not '1'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["--port", "70000"], "--port must be a port number, not '70000'"),
        (["--max-batch-tokens", "0"], "--max-batch-tokens must be a positive integer, not '0'"),
        (
            ["--dtype", "bfloat16"],
            "--dtype must be float32, float16, int8 or uint8, not 'bfloat16'",
        ),
        (["--pooling", "max"], "--pooling must be cls, mean, splade or last-token, not 'max'"),
        (["--hostname", "box"], "--hostname must be an IP address or localhost, not 'box'"),
        (
            ["--default-prompt", "a", "--default-prompt-name", "b"],
            "--default-prompt and --default-prompt-name exclude each other",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        _parse(*argv)
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_model_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_flags([], {})
    assert "--model-id is required" in capsys.readouterr().err


def test_localhost_means_loopback_only() -> None:
    assert _parse("--hostname", "localhost").hostname == "127.0.0.1"


def test_the_name_that_a_container_sets_is_no_address_to_listen_on() -> None:
    assert _parse(HOSTNAME="4f6c1d2e").hostname == "0.0.0.0"


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(_parse("--api-key", "secret"))


def test_engines_beside_each_other_take_their_parts_of_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flags_module, "available_cores", lambda: 8)
    alone, third, tenth = _parse(), _parse("--engines", "3"), _parse(ENGINES="10")
    threads = [(row.intra_op_threads, row.tokenization_workers) for row in (alone, third, tenth)]
    assert threads == [(8, 7), (2, 1), (1, 1)]
    asked = _parse("--engines", "3", "--intra-op-threads", "6", "--tokenization-workers", "4")
    assert (asked.intra_op_threads, asked.tokenization_workers) == (6, 4)
