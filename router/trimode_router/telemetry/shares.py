"""What each of several processes on one port has counted, added up to one exposition. [pure]

The process that is scraped answers for all: a counter that fell from one scrape to the next, as another process
answered, would be a restart to `rate()`. Before they were added up, scrapes of two processes read 8, 12, 12, 8, 12, 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from trimode_api.fleet import FleetView

_BORN = "_created"
"""End of the names of samples that are times: of these the first counts, all others are added."""


class Line(msgspec.Struct, array_like=True, frozen=True):
    """One sample."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, array_like=True, frozen=True):
    """One metric with its samples."""

    name: str
    about: str
    kind: str
    lines: list[Line]


class Share(msgspec.Struct, frozen=True):
    """What one process has counted; `in_flight` by replica."""

    families: list[Family]
    in_flight: dict[str, int]


def share_of(metrics: Iterable[Metric], view: FleetView) -> Share:
    """This process's own."""
    families = [
        Family(each.name, each.documentation, each.type, [Line(s.name, dict(s.labels), s.value) for s in each.samples])
        for each in metrics
    ]
    return Share(families, {replica.replica_id: replica.in_flight for replica in view.replicas})


class Sum(Collector):
    """The sum of several shares, as metrics."""

    def __init__(self, shares: Sequence[Share]) -> None:
        self._shares = shares

    def collect(self) -> Iterator[Metric]:
        names: dict[str, list[Family]] = {}
        for share in self._shares:
            for family in share.families:
                names.setdefault(family.name, []).append(family)
        for name, families in names.items():
            metric = Metric(name, families[0].about, families[0].kind)
            # One line for each name and labels, in the order of their first appearance.
            found: dict[tuple[str, tuple[tuple[str, str], ...]], Line] = {}
            for line in (line for family in families for line in family.lines):
                key = line.name, tuple(line.labels.items())
                known, value = found.get(key), line.value
                if known is not None:
                    value = min(known.value, value) if line.name.endswith(_BORN) else known.value + value
                found[key] = Line(line.name, line.labels, value)
            for line in found.values():
                metric.add_sample(line.name, line.labels, line.value)
            yield metric


def of_all(view: FleetView, others: Sequence[Share]) -> FleetView:
    """`view` with the requests that the other processes have sent to each replica, too."""
    replicas = []
    for replica in view.replicas:
        sent = replica.in_flight + sum(share.in_flight.get(replica.replica_id, 0) for share in others)
        replicas.append(replica.model_copy(update={"in_flight": sent}))
    return view.model_copy(update={"replicas": tuple(replicas)})
