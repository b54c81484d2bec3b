"""The instances' own ``te_*`` series on the manager's page: read, labelled, and merged by name.

Each instance says its series without saying who it is, and all say the same names. A page may
explain a name only once, so what was a page for each instance becomes a family for each name.

Rules of this file
    1. Only lines about names that begin with ``te_`` are read; none of our own names does.
    2. Every sample gets the labels ``instance`` and ``model``. A label that already has such a
       name is shown as ``exported_…``, as Prometheus itself does it.
    3. A family has one HELP, the first that says something, and one TYPE: that on which all
       agree, otherwise ``untyped``. Samples keep their names, so that a histogram stays whole.
    4. Counters are shown as ``untyped``. TEI's lack the ``_total`` that the library would add, and
       TEI's own dashboards ask for the names that TEI gives. Prometheus makes no difference.
    5. A page that cannot be read whole, or not be written again, adds nothing.

Known flaws
    Time stamps of samples are dropped; neither TEI nor our engine gives any. An instance that
    says one series twice has it twice.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tei_manager.telemetry.exposition import render

LONGEST_LINE = 8192
"""Characters; the longest line of TEI has about 80. The parser takes time by their square."""

_OURS = re.compile(r"(?:#[ \t]+(?:HELP|TYPE)[ \t]+)?te_")
_UNSUITED_TYPE = re.compile(r"#[ \t]+TYPE[ \t]+(te_\S*)[ \t]+(?!(?:gauge|histogram|summary)\s*$)")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class Federation:
    """The series of many instances, as one page.

    Ownership:
        Not safe to use from several threads at the same time.
    """

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def __repr__(self) -> str:
        return f"<Federation: {len(self._families)} families>"

    def add(self, instance: str, model: str, page: str) -> None:
        """Add what an instance says of itself.

        Args:
            instance: Label of its name.
            model: Label of its model.
            page: In Prometheus' text format.

        Raises:
            ValueError: It is not in that format; nothing was added.
        """
        ours = {"instance": instance, "model": model}
        try:
            read = text_string_to_metric_families("\n".join(_lines(page)))
            families = [(family, [_labelled(it, ours) for it in family.samples]) for family in read]
        except (ValueError, IndexError, OverflowError) as error:  # the last for too large a number
            raise ValueError(f"not Prometheus' text format ({error})") from error
        for family, samples in families:
            self._merge(family, samples)

    def _merge(self, family: Metric, samples: list[Sample]) -> None:
        empty = Metric(family.name, family.documentation, family.type)
        known = self._families.setdefault(family.name, empty)
        known.documentation = known.documentation or family.documentation
        if known.type != family.type:
            known.type = "unknown"
        known.samples += samples

    def page(self) -> bytes:
        """Return all that was added, in Prometheus' text format."""
        return render(self._families.values())


def _lines(page: str) -> Iterator[str]:
    """Yield the lines about TEI's names, with types that the library leaves as they are."""
    for line in page.split("\n"):
        if _OURS.match(line):
            if len(line) > LONGEST_LINE:
                raise ValueError(f"a line of {len(line)} characters is too long")
            named = _UNSUITED_TYPE.match(line)
            yield f"# TYPE {named[1]} untyped" if named else line


def _labelled(sample: Sample, ours: dict[str, str]) -> Sample:
    labels = dict(ours)
    for name, value in sample.labels.items():
        if not _LABEL.fullmatch(name):
            raise ValueError(f"'{name}' is no name of a label")
        labels[_exported(name, ours.keys() | sample.labels) if name in ours else name] = value
    return Sample(sample.name, labels, float(sample.value))


def _exported(name: str, taken: Container[str]) -> str:
    while name in taken:
        name = f"exported_{name}"
    return name
