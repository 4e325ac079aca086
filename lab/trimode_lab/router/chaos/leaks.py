"""What the router holds while the load runs, and whether it grows."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from statistics import median

import aiohttp

from trimode_lab.router.chaos.load import Load
from trimode_lab.router.chaos.processes import Processes, ProcessUsage
from trimode_tools.tables import markdown

SAMPLES = 20
"""Of each scenario, at even distances."""
MORE_TASKS, MORE_DESCRIPTORS = 5, 50
"""Allowed at rest after the load, beside what there was at rest before it: reports on their way; connections to
replicas that are kept, fewer than there were requests at once."""
MORE_MB = 20.0
"""Allowed for a whole scenario: what is set up once, and rings that fill."""
MORE_MB_LATE, MORE_DESCRIPTORS_LATE = 5.0, 40
"""Allowed from a third of a soak to its end, under the same load: by then all is set up and rings are full."""
SOAK_SECONDS = 30.0
"""Shorter scenarios are judged at rest only: within seconds connections come and go by the dozen."""
_COLUMNS = ("at s", "sent", "ok", "streams open", "MB", "descriptors", "tasks")


@dataclass(frozen=True, slots=True)
class Sample:
    """The router at one moment. `streams`: open ones, by the clients' count; `sent` and `ok` are sums so far."""

    at_s: float
    sent: int
    ok: int
    streams: int
    usage: ProcessUsage

    def row(self) -> tuple[str, ...]:
        held = self.usage
        return (
            f"{self.at_s:.0f}",
            *map(str, (self.sent, self.ok, self.streams)),
            f"{held.memory_mb:.1f}",
            *map(str, (held.descriptors, held.tasks)),
        )


async def watch(processes: Processes, load: Load, seconds: float, samples: list[Sample]) -> None:
    """Take the samples; a router that is away for a restart is not looked at."""
    begun, router = time.monotonic(), processes.router
    for number in range(1, SAMPLES + 1):
        await asyncio.sleep(max(0.0, begun + seconds * number / SAMPLES - time.monotonic()))
        if processes.router is not router or router.returncode is not None:
            return  # a new process has no past to compare with
        account = load.account
        try:
            usage = await processes.usage()
        except (OSError, aiohttp.ClientError):
            return
        samples.append(Sample(time.monotonic() - begun, account.sent, account.ends["ok"], load.streams, usage))


def leaks(before: ProcessUsage, after: ProcessUsage, samples: list[Sample]) -> tuple[str, ...]:
    """What has grown that should not have: between two moments at rest, and late in the load."""
    found: list[str] = []
    if (more := after.tasks - before.tasks) > MORE_TASKS:
        found.append(f"{more} tasks more")
    if (more := after.descriptors - before.descriptors) > MORE_DESCRIPTORS:
        found.append(f"{more} descriptors more")
    if (grown := after.memory_mb - before.memory_mb) > MORE_MB:
        found.append(f"{grown:.1f} MB more")
    late_mb, late_descriptors = late_growth(samples)
    if late_mb > MORE_MB_LATE:
        found.append(f"{late_mb:.1f} MB more in the last two thirds")
    if late_descriptors > MORE_DESCRIPTORS_LATE:
        found.append(f"{late_descriptors:.0f} descriptors more in the last two thirds")
    return tuple(found)


def late_growth(samples: list[Sample]) -> tuple[float, float]:
    """Memory in MB and descriptors: the median of the last quarter less that of the second third's beginning; 0 for
    too few samples, or too short a time."""
    if len(samples) < SAMPLES or samples[-1].at_s < SOAK_SECONDS:
        return 0.0, 0.0
    early, late = ([each.usage for each in part] for part in (samples[6:10], samples[15:]))
    mb = median(each.memory_mb for each in late) - median(each.memory_mb for each in early)
    return mb, median(each.descriptors for each in late) - median(each.descriptors for each in early)


def table(samples: list[Sample]) -> str:
    """As Markdown."""
    return markdown(_COLUMNS, [sample.row() for sample in samples]).rstrip()
