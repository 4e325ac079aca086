"""`python -m trimode_lab.router.chaos`: run the scenarios, print the account; exit code 1 where a request was lost, or
something leaks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass, field

from trimode_lab.router.chaos.leaks import Sample, late_growth, leaks, watch
from trimode_lab.router.chaos.leaks import table as leak_table
from trimode_lab.router.chaos.load import Account, Load, quantile
from trimode_lab.router.chaos.processes import Processes, ProcessUsage
from trimode_lab.router.chaos.scenarios import REPLICAS, SCENARIOS, SOAK, Scenario
from trimode_tools.tables import markdown

_WARM_SECONDS = 2.0
_COLUMNS = ("scenario", "sent", "ok", "resumed", "pause p50/max s", "left", "refused", "unconnected", "error", "wrong")


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario's outcome. `before` and `after` are of the router at rest, after a warm-up and after the last
    answer; the same where another process took over, which has no past to compare with."""

    scenario: Scenario
    account: Account
    before: ProcessUsage
    after: ProcessUsage
    samples: list[Sample] = field(default_factory=list)

    @property
    def problems(self) -> tuple[str, ...]:
        """Requests lost, and what has leaked; empty where all is well."""
        ends = {end: count for end, count in self.account.ends.items() if count}
        lost = {end: count for end, count in ends.items() if end not in {"ok"} | self.scenario.excused}
        told = tuple(f"{count} requests: {end}" for end, count in lost.items())
        return told + leaks(self.before, self.after, self.samples)

    def row(self) -> tuple[str, ...]:
        ends, pauses = self.account.ends, self.account.pauses
        pause = f"{quantile(pauses, 0.5):.2f}/{quantile(pauses, 1):.2f}" if pauses else "-"
        counts = [ends[end] for end in ("left", "refused", "unconnected", "error", "wrong")]
        return (
            self.scenario.name,
            str(self.account.sent),
            str(ends["ok"]),
            str(self.account.resumed),
            pause,
            *map(str, counts),
        )


async def play(scenario: Scenario, seconds: float, clients: int) -> Result:
    """One scenario on a fleet of its own."""
    async with Processes() as processes:
        await processes.add(REPLICAS)
        await Load(processes.url, clients).run(_WARM_SECONDS)
        await processes.settled()
        router, before = processes.router, await processes.usage()
        load, samples = Load(processes.url, clients, leaving=scenario.leaving), list[Sample]()
        running = asyncio.ensure_future(load.run(seconds))
        disturbing = asyncio.ensure_future(scenario.disturb(processes, max(0.0, seconds - _WARM_SECONDS)))
        watching = asyncio.ensure_future(watch(processes, load, seconds, samples))
        try:
            account = await running
            await disturbing
            await watching
        finally:
            for task in (running, disturbing, watching):
                task.cancel()
            await asyncio.gather(running, disturbing, watching, return_exceptions=True)
        await processes.settled()
        after = await processes.usage()
        return Result(scenario, account, before if processes.router is router else after, after, samples)


def table(results: list[Result]) -> str:
    """As Markdown."""
    return markdown(_COLUMNS, [result.row() for result in results]).rstrip()


def main() -> int:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m trimode_lab.router.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each scenario")
    parser.add_argument("--clients", type=int, default=50, help="streams at any time; whole answers come on top")
    parser.add_argument("--only", choices=names, action="append", help="one scenario; may be given several times")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for scenario in SCENARIOS:
        if options.only and scenario.name not in options.only:
            continue
        result = asyncio.run(play(scenario, options.seconds, options.clients))
        results.append(result)
        before, after = result.before, result.after
        grown = (
            f"{after.memory_mb - before.memory_mb:+.1f} MB, {after.descriptors - before.descriptors:+d} descriptors, "
            f"{after.tasks - before.tasks:+d} tasks"
        )
        state = "; ".join(result.problems) or "ok"
        sys.stderr.write(f"{scenario.name}: {dict(result.account.ends)} {grown}: {state}\n")
        for example in result.account.examples:
            sys.stderr.write(f"    {example}\n")
    if options.json:
        rows = [dict(zip(_COLUMNS, result.row(), strict=True)) for result in results]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        sys.stdout.write(table(results) + "\n")
        for result in results:
            if result.scenario.name == SOAK:
                sys.stdout.write(f"\n{leak_table(result.samples)}\n")
                late_mb, late_descriptors = late_growth(result.samples)
                sys.stdout.write(f"\nat rest before {result.before}\nat rest after  {result.after}\n")
                sys.stdout.write(f"late growth    {late_mb:+.1f} MB, {late_descriptors:+.0f} descriptors\n")
    return 1 if any(result.problems for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
