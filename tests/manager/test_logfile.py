"""Logs: appended by the process, sliced like a list, kept within a size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tei_manager.manager.logfile import MAX_READ, Lines, LogFile

LINE = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n"), max_size=5)
INDEX = st.none() | st.integers(-9, 9)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINE, max_size=6), INDEX, INDEX)
def test_slice_is_that_of_a_python_list(
    tmp_path: Path, lines: list[str], start: int | None, end: int | None
) -> None:
    log = LogFile(tmp_path / "log")
    log.path.write_text("".join(line + "\n" for line in lines), "utf-8")
    found = log.read(start, end)
    assert found.lines == lines[start:end]
    assert found.lines == (lines[found.start : found.end] if found.start < found.end else [])
    assert (found.start, found.end) == slice(start, end).indices(len(lines))[:2]
    assert found.total == len(lines)
    rest = log.read_from(log.offset_of(start or 0))[0]
    assert rest == "".join(line + "\n" for line in lines[start or 0 :])


def test_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log")
    assert (log.read().lines, log.tail(3), log.size()) == ([], [], 0)


def test_bytes_that_are_no_text_do_not_fail(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log")
    log.path.write_bytes(b"a\xff\n")
    assert log.read().lines == ["a\N{REPLACEMENT CHARACTER}"]


def test_writer_goes_on_at_the_beginning_after_a_cut(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "folder" / "log")
    writer = log.open()
    os.write(writer, b"old\n" * 10)
    log.keep_within(limit=100)
    assert log.size() == 40, "under the limit"
    log.keep_within(limit=39)
    os.write(writer, b"new\n")
    os.close(writer)
    assert log.path.read_bytes() == b"new\n"
    assert log.path.with_name("log.1").read_bytes() == b"old\n" * 10
    log.delete()
    assert list(log.path.parent.iterdir()) == []


def test_files_and_their_folder_are_for_us_alone_whatever_the_umask(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "folder" / "log")
    before = os.umask(0)
    try:
        os.write(writer := log.open(), b"old\n")
        os.close(writer)
        log.keep_within(limit=3)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in log.path.parent.iterdir()}
    assert modes == {"log": 0o600, "log.1": 0o600}
    assert log.path.parent.stat().st_mode & 0o777 == 0o700


def test_file_of_others_becomes_ours_alone(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log")
    for path in (log.path, log.path.with_name("log.1")):
        path.write_text("old\n")
        path.chmod(0o644)
    os.close(log.open())
    log.keep_within(limit=3)
    assert log.path.stat().st_mode & 0o777 == 0o600
    assert log.path.with_name("log.1").stat().st_mode & 0o777 == 0o600


def test_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log")
    log.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="log"):
        log.open()
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "elsewhere").write_text("secret")
    with pytest.raises(OSError, match="log"):
        log.read()


def test_of_a_large_slice_only_the_end_is_read(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log")
    log.path.write_bytes(b"".join(b"%09d\n" % number for number in range(300_000)))
    found = log.read()
    assert len(found.lines) == MAX_READ // 10
    assert found.lines[-1] == "000299999"
    assert found.lines[0] == f"{found.start:09}"
    assert (found.end, found.total) == (300_000, 300_000)
    assert log.read(0, 2) == Lines(["000000000", "000000001"], 0, 2, 300_000)
    assert log.read_from(0)[1] <= MAX_READ


def test_line_over_the_limit_is_read_from_its_end_and_followed_in_pieces(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log")
    log.path.write_bytes(b"x" * (MAX_READ + 5) + b"end\n")
    (line,) = log.read().lines
    assert (len(line), line[-3:]) == (MAX_READ - 1, "end")
    first, offset = log.read_from(0)
    assert (len(first), log.read_from(offset)[0]) == (MAX_READ, "xxxxxend\n")


def test_follower_gets_whole_lines_once_each_and_notices_a_cut(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log")
    log.path.write_bytes(b"one\ntw")
    text, offset = log.read_from(0)
    assert text == "one\n"
    log.path.write_bytes(b"one\ntwo\n")
    text, offset = log.read_from(offset)
    assert (text, log.read_from(offset)[0]) == ("two\n", "")
    log.path.write_bytes(b"cut\n")
    assert log.read_from(offset)[0] == "cut\n"


def test_tail_reads_a_window_only(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log")
    log.path.write_bytes(b"x" * 100 + b"\nlast\n")
    assert log.tail(1) == ["last"]
    assert log.tail(5, window=8) == ["xx", "last"]
    assert log.tail(5, window=0) == []
