"""A machine on which docs/operations.md can be tried: its paths, its ports, its systemd.

What the page calls ``/var/lib/tei-manager``, port 9000 and so on is a folder of a test and free
ports here, on the way in and on the way out. The service is what the unit in deploy/ starts, and
gets the signals that the unit says.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from control_plane import free_ports, stub_binary

from tei_manager.cli.main import main

ROOT = Path(__file__).parents[2]
LIMIT = 90
"""Seconds for whatever a busy machine does; a start takes two on an idle one."""

SETTINGS = """
[api]
port = {p9000}
[grpc]
multiplexer_port = {p9001}
[instances]
port_start = {p8081}
port_end = {p8085}
metrics_port_start = {p9100}
metrics_port_end = {p9104}
tei_binary = "{router}"
stop_timeout_secs = 20
[state]
path = "{state}/state.db"
[[instance]]
name = "bge-small"
model_id = "BAAI/bge-small-en-v1.5"
"""


@dataclass(frozen=True)
class Command:
    """A line after ``$`` in a block of the page, and what stands below it."""

    line: str
    output: str

    def matches(self, output: str) -> bool:
        """Whether an output is what the page says: ``…`` is anything, many spaces are one."""
        said = re.escape(_squeezed(self.output)).replace("…", ".*?")
        return re.fullmatch(said, _squeezed(output), re.DOTALL) is not None


def _squeezed(text: str) -> str:
    lines = (re.sub(r"\\? +", " ", line).strip() for line in text.strip().splitlines())
    return "\n".join(lines)


def sections() -> dict[str, list[Command]]:
    """The commands of the page that are tried, by the heading above them."""
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    found: dict[str, list[Command]] = {}
    for part in re.split(r"^## ", page, flags=re.M)[1:]:
        for block in re.findall(r"^```console\n(.*?)^```$", part, re.M | re.S):
            for entry in re.split(r"^\$ ", block, flags=re.M)[1:]:
                line, _, output = entry.partition("\n")
                found.setdefault(part.partition("\n")[0], []).append(Command(line, output))
    return found


class Service:
    """What systemd runs: the command of the unit, and the lines that it writes.

    Args:
        argv: Of the command.
    """

    def __init__(self, argv: list[str]) -> None:
        self.lines: list[str] = []
        self._told = threading.Condition()
        self._over = False
        self._process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                with self._told:
                    self.lines.append(line.rstrip("\n"))
                    self._told.notify_all()
        with self._told:
            self._over = True
            self._told.notify_all()

    def says(self, text: str) -> bool:
        """Wait for a line; false if the process ended without it."""
        with self._told:
            assert self._told.wait_for(lambda: self._has(text) or self._over, LIMIT), self.lines
            return self._has(text)

    def _has(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    @property
    def runs(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the manager alone."""
        if self.runs:
            self._process.send_signal(number)

    def wait(self) -> None:
        """Wait for its end."""
        self._process.wait(LIMIT)
        self._reader.join(LIMIT)


class Machine:
    """Where commands of the page are typed.

    Args:
        folder: Empty.

    Ownership:
        `close` ends everything that runs here.
    """

    def __init__(self, folder: Path) -> None:
        first = free_ports(14)
        ports = {"9000": first, "9001": first + 1, "9002": first + 2, "8081": first + 3,
                 "8085": first + 7, "9100": first + 8, "9104": first + 12}  # fmt: skip
        self.state, self._config = folder / "state", folder / "models.toml"
        self.state.mkdir()
        values = {
            **{f"p{name}": port for name, port in ports.items()},
            "router": stub_binary(folder / "bin"),
            "state": self.state,
        }
        self._config.write_text(SETTINGS.format_map(values))
        self._names = {
            "/opt/tei-manager/bin/tei-manager": f"{sys.executable} -m tei_manager",
            "/etc/tei-manager/models.toml": str(self._config),
            "/var/lib/tei-manager": str(self.state),
            "/var/log/tei-manager": str(folder / "log"),
            **{f"127.0.0.1:{name}": f"127.0.0.1:{port}" for name, port in ports.items()},
            "--api-port 9002": f"--api-port {ports['9002']}",
        }
        self.api, self.grpc = (f"127.0.0.1:{ports[name]}" for name in ("9000", "9001"))
        self.service: Service | None = None

    def here(self, text: str) -> str:
        """A text of the page as this machine has it."""
        for name, actual in self._names.items():
            text = text.replace(name, actual)
        return text

    def shown(self, text: str) -> str:
        """A text of this machine as the page has it."""
        for name, actual in self._names.items():
            text = text.replace(actual, name)
        return text

    def type(self, line: str) -> str:
        """Run a command of the page and return what it shows."""
        words = shlex.split(self.here(line))
        match words:
            case ["systemctl", verb, *rest]:
                return self._systemctl(verb, rest)
            case ["journalctl", *_]:
                assert self.service is not None
                return self.shown(self.service.lines[-1])
            case ["tei-manager", "serve", *_]:
                return self._run([sys.executable, "-m", "tei_manager", *words[1:]])
            case ["tei-manager", *arguments]:
                return self.shown(self._command(arguments))
            case ["sqlite3", file, statement] if not shutil.which("sqlite3"):
                return _sqlite(file, statement)
        return self._run(words)

    def _run(self, words: list[str]) -> str:
        told = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT
        )
        return self.shown(told.stdout)

    def _command(self, arguments: list[str]) -> str:
        """Run a command in this process, which saves a start of Python for each."""
        if arguments[0] == "embed":
            arguments = [*arguments, "--target", self.grpc]
        written = io.StringIO()
        environ = {"TEI_MANAGER_API": f"http://{self.api}", "COLUMNS": "200"}
        with (
            mock.patch.object(sys, "argv", ["tei-manager", *arguments]),
            mock.patch.dict("os.environ", environ),
            contextlib.redirect_stdout(written),
            contextlib.redirect_stderr(written),
            contextlib.suppress(SystemExit),
        ):
            main()
        return written.getvalue()

    def _systemctl(self, verb: str, rest: list[str]) -> str:
        assert rest[-1] == "tei-manager", "the unit that we ship"
        match verb:
            case "start":
                self.start()
            case "restart":
                self.end(signal.SIGTERM)
                self.start()
            case "reload":
                assert self.service is not None
                self.service.signal(signal.SIGHUP)
                assert self.service.says("Reloaded: ")
            case "kill":
                assert rest == ["--kill-whom=main", "--signal=INT", "tei-manager"]
                self.end(signal.SIGINT)
            case _:
                raise AssertionError(f"systemctl {verb} is not tried")
        return ""

    def start(self) -> bool:
        """Start the service as the unit does, if it does not run; false if it could not."""
        if self.service is not None and self.service.runs:
            return True
        unit = (ROOT / "deploy" / "tei-manager.service").read_text("utf-8")
        (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.M)
        command = command.replace("%S", "/var/lib").replace("%L", "/var/log")
        service = self.service = Service(shlex.split(self.here(command)))
        if service.says("Serving: "):
            return True
        service.wait()
        return False

    def end(self, number: signal.Signals) -> None:
        """Send the service a signal and wait for its end."""
        if self.service is not None:
            self.service.signal(number)
            self.service.wait()
            self.service = None

    def close(self) -> None:
        """End everything, what was left running included."""
        self.start()
        self.end(signal.SIGINT)


def _sqlite(file: str, statement: str) -> str:
    with contextlib.closing(sqlite3.connect(file)) as db:
        return "\n".join("|".join(map(str, row)) for row in db.execute(statement))


@contextlib.contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """A machine whose service is ended with all that it started."""
    made = Machine(folder)
    try:
        yield made
    finally:
        made.close()
