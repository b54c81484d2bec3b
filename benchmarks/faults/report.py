"""The page docs/faults.md, made from the document of a run and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.faults.bars import BARS, Bar
from benchmarks.faults.stalls import DEAF_CLIENTS, IN_FLIGHT
from benchmarks.faults.trials import MANY, SINGLE, TWENTY
from tei_manager.bench.results import OURS

Document = dict[str, Any]
Cell = Callable[[dict[str, Any]], str]

ABSENT = "-"
"""Shown where a part was not run, or a figure does not exist."""

_INTRO = """# Floods, slow peers and faults

What the switch and its peers do when clients or instances misbehave. This page and
[the figures](../benchmarks/results/faults.json) are written by one command, and a test compares
them:

```console
$ make report    # about ten minutes; what is not installed is left out and named
```
"""

_METHOD = """Every server has one worker on a core of its own, and settings near its defaults
([benchmarks/peers](../benchmarks/peers)). Clients, attackers and the backend share the other
core. Peers pass calls on as they are; ours also finds the target and unwraps the request. Latencies
include whatever else the machine did at the time: where its load was not near 0 before the run,
differences of some milliseconds mean nothing.
"""

_BARS = """## Bars

What is asked of the switch, and what each server reached. Bold is what misses the bar.

"""

_FLOODS = """## Floods

Eighteen attacks, each on one connection for at most four seconds, beside a gRPC client that makes a
call every ten milliseconds and is watched for more than a second. *Frames* are those that
the attacker's kernel had taken when the end was seen; the server had read fewer. *GOAWAY 0* is
nginx's way of ending a connection without blame. Envoy keeps a connection that it gave up for
another second, unread. Memory is the most that it grew at any moment.
"""

_TWENTY = f"""## {MANY} floods at once

The same on {MANY} connections at a time. Of frames and seconds the largest is shown.
"""

_SLOW = """## Slow peers

How long a client may keep a connection or a call without going on. Waits end after {wait:.0f} s.
"""

_FAULTS = f"""## Faults

Medians, and in brackets the worst sample. F1 is a stream of which one message had come. F2b counts
from the moment the backend listens again. F6 has {DEAF_CLIENTS} clients that announce the largest
windows and read nothing of an endless answer. F7 sends the signal that lets calls finish, while
{IN_FLIGHT} are under way: SIGTERM to ours and Envoy, SIGQUIT to nginx and nghttpx, SIGUSR1 to
HAProxy. Envoy would have to be drained by its admin port before.
"""

_F6B = """### F6b: other calls beside clients that do not read

p99 of unary calls to the same backend in ms, by the number of such clients, and calls that failed.
"""


def render(document: Document) -> str:
    """Return the page."""
    parts = (_about, _bars, _conformance, _floods, _twenty, _slow, _faults)
    return "\n".join([_INTRO, *filter(None, (part(document) for part in parts))])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are set right."""
    lines = (f"| {' | '.join(cells)} |\n" for cells in (head, *rows))
    return next(lines) + f"|---|{'--:|' * (len(head) - 1)}\n" + "".join(lines)


def _across(document: Document, what: str, rows: dict[str, Callable[[str], str]]) -> str:
    """Return a table with a column for each server; a row makes its cell from a server's name."""
    names = list(document["servers"])
    head = [what, *(f"**{name}**" if name == OURS else name for name in names)]
    return table(head, ([row, *(cell(name) for name in names)] for row, cell in rows.items()))


def _cell(document: Document, section: str, row: str, show: Cell) -> Callable[[str], str]:
    """Return a row of `_across` that shows one entry of each server's section."""

    def cell(name: str) -> str:
        found = document["servers"][name].get(section, {}).get(row)
        return ABSENT if found is None else show(found)

    return cell


def _has(document: Document, section: str) -> bool:
    return any(section in results for results in document["servers"].values())


def _rows(document: Document, section: str) -> list[str]:
    """Return the names of a section's rows, in the order of the run."""
    found: dict[str, None] = {}
    for results in document["servers"].values():
        found.update(dict.fromkeys(results.get(section, {})))
    return list(found)


def _about(document: Document) -> str:
    about = document["about"]
    versions = (f"{name} {found['version']}" for name, found in document["servers"].items())
    lines = [
        f"- {about['machine']}, Python {about['python']}; load before the run {about['load']}",
        f"- {', '.join(versions)}",
        f"- `{about['command']}`, {about['minutes']} minutes, {about['when']}",
        *(f"- not installed, left out: {name}" for name in document["missing"]),
    ]
    return "\n".join(lines) + "\n\n" + _METHOD


def _bars(document: Document) -> str:
    bars = [bar for bar in BARS if _has(document, bar.section)]
    rows = {f"{bar.what}: {bar.limit}": _judgement(document, bar) for bar in bars}
    return _BARS + _across(document, "bar", rows)


def _judgement(document: Document, bar: Bar) -> Callable[[str], str]:
    def cell(name: str) -> str:
        section = document["servers"][name].get(bar.section)
        if section is None:
            return ABSENT
        shown, met = bar.judge(section)
        return shown if met else f"**{shown}**"

    return cell


def _conformance(document: Document) -> str:
    if not _has(document, "conformance"):
        return ""
    section = "conformance"
    rows = {key: _cell(document, section, key, str) for key in ("passed", "cases")}
    return "## Conformance\n\nh2spec with its strict cases.\n\n" + _across(document, "", rows)


def _floods(document: Document) -> str:
    return _FLOODS + _trial(document, SINGLE) if _has(document, SINGLE) else ""


def _twenty(document: Document) -> str:
    return _TWENTY + _trial(document, TWENTY) if _has(document, TWENTY) else ""


def _trial(document: Document, section: str) -> str:
    parts = {
        "how it ended; frames, seconds": _ending,
        "honest client: worst, p99 in ms; failures": _honest,
        "server: CPU s; memory MiB": _cost,
    }
    return "".join(
        "\n" + _across(document, what, _shown(document, section, show))
        for what, show in parts.items()
    )


def _shown(document: Document, section: str, show: Cell) -> dict[str, Callable[[str], str]]:
    rows = _rows(document, section)
    return {row: _cell(document, section, row, show) for row in rows}


def _ending(row: dict[str, Any]) -> str:
    resets = f", {row['resets']:,} resets" if row["how"] == "kept" and row["resets"] else ""
    return f"{row['how']}{resets}; {row['frames']:,}, {row['seconds']:.2f}"


def _honest(row: dict[str, Any]) -> str:
    worst, p99 = (ABSENT if row[key] is None else f"{row[key]:.1f}" for key in _HONEST)
    return f"{worst}, {p99}; {row['failures']}"


_HONEST = ("worst_ms", "p99_ms")


def _cost(row: dict[str, Any]) -> str:
    return f"{row['cpu_s']:.2f}; +{row['rss_mib']:.1f}"


def _slow(document: Document) -> str:
    if not _has(document, "slow"):
        return ""
    wait = document["about"]["wait"]

    def show(row: dict[str, Any]) -> str:
        return f"> {wait:.0f} s" if row["seconds"] is None else f"{row['how']}, {row['seconds']} s"

    shown = _shown(document, "slow", show)
    return _SLOW.format(wait=wait) + "\n" + _across(document, "a client that sends", shown)


def _faults(document: Document) -> str:
    if not _has(document, "faults"):
        return ""
    rows = {
        what: _cell(document, "faults", fault, show) for fault, (what, show) in _FAULT_ROWS.items()
    }
    return _FAULTS + "\n" + _across(document, "fault", rows) + "\n" + _neighbours(document)


def _time(row: dict[str, Any]) -> str:
    return f"{row['median_ms']} ({row['worst_ms']}) ms"


def _outcome(row: dict[str, Any]) -> str:
    return f"{row['status']}, {_time(row)}"


def _stopped(row: dict[str, Any]) -> str:
    exits = "no exit" if row["exit_s"] is None else f"exit after {row['exit_s']} s"
    return f"{row['status']}, {row['lost']} lost, {exits}"


def _deaf(row: dict[str, Any]) -> str:
    return f"+{row['rss_mib']} MiB, {row['sent_mib_each']} MiB"


_FAULT_ROWS: dict[str, tuple[str, Cell]] = {
    "F1": ("F1: backend killed under a stream: status, after", _outcome),
    "F2": ("F2: backend away: status, after", _outcome),
    "F2b": ("F2b: backend back: first success after", _time),
    "F3": ("F3: client cancels: backend told after", _time),
    "F4": ("F4: client killed: backend told after", _time),
    "F5": ("F5: deadline of 300 ms: client's status, after", _outcome),
    "F5, backend told": ("F5: backend told after", _time),
    "F6": ("F6: clients that do not read: server's memory, sent by the backend for each", _deaf),
    "F7": ("F7: soft stop with calls in flight", _stopped),
    "F8": ("F8: backend frozen, deadline of 1 s: status, after", _outcome),
    "F8, after": ("F8: the next call when it goes on", _outcome),
}


def _neighbours(document: Document) -> str:
    found = {
        name: {step["readers"]: step for step in results["faults"]["F6b"]["steps"]}
        for name, results in document["servers"].items()
        if "F6b" in results.get("faults", {})
    }
    counts = dict.fromkeys(count for steps in found.values() for count in steps)
    rows = {str(count): _beside(found, count) for count in counts}
    return _F6B + "\n" + _across(document, "clients", rows)


def _beside(found: dict[str, dict[int, dict[str, Any]]], count: int) -> Callable[[str], str]:
    def cell(name: str) -> str:
        step = found.get(name, {}).get(count)
        if step is None:
            return ABSENT
        p99 = ABSENT if step["p99_ms"] is None else f"{step['p99_ms']:.1f}"
        return f"{p99}, {step['failures']} failed" if step["failures"] else p99

    return cell
