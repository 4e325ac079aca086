"""`python -m trimode_router.chaos`: run the scenarios, print the account; exit code 1 where a request was lost."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass

from trimode_router.chaos.load import Account, Load, quantile
from trimode_router.chaos.scenarios import REPLICAS, SCENARIOS, Scenario
from trimode_router.chaos.stage import Stage, descriptors, resident_mb

_WARM_SECONDS = 2.0
_COLUMNS = ("scenario", "sent", "ok", "resumed", "pause p50/max s", "left", "refused", "unconnected", "error", "wrong")


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario's outcome. Growth is of the router's process, from after a warm-up to after the last answer."""

    scenario: Scenario
    account: Account
    grown_mb: float
    grown_descriptors: int
    tasks: int

    @property
    def fine(self) -> bool:
        ends = {end for end, count in self.account.ends.items() if count}
        return ends <= {"ok"} | self.scenario.excused

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
    """One scenario on a stage of its own."""
    async with Stage() as stage:
        await stage.add(REPLICAS)
        await Load(stage.url, clients).run(_WARM_SECONDS)
        await stage.settled()
        router = stage.router
        memory, files = resident_mb(router.pid), descriptors(router.pid)
        load = Load(stage.url, clients, leaving=scenario.leaving)
        running = asyncio.ensure_future(load.run(seconds))
        disturbing = asyncio.ensure_future(scenario.disturb(stage, max(0.0, seconds - _WARM_SECONDS)))
        try:
            account = await running
            await disturbing
        finally:
            for task in (running, disturbing):
                task.cancel()
            await asyncio.gather(running, disturbing, return_exceptions=True)
        await stage.settled()
        same = stage.router is router  # a new process has no past to compare with
        return Result(
            scenario,
            account,
            resident_mb(stage.router.pid) - memory if same else 0.0,
            descriptors(stage.router.pid) - files if same else 0,
            await stage.tasks(),
        )


def table(results: list[Result]) -> str:
    """As Markdown."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    lines += ["| " + " | ".join(result.row()) + " |" for result in results]
    return "\n".join(lines)


def main() -> int:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m trimode_router.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each scenario")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--only", choices=names, action="append", help="one scenario; may be given several times")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for scenario in SCENARIOS:
        if options.only and scenario.name not in options.only:
            continue
        result = asyncio.run(play(scenario, options.seconds, options.clients))
        results.append(result)
        state = "ok" if result.fine else "LOST REQUESTS"
        grown = f"{result.grown_mb:+.1f} MB, {result.grown_descriptors:+d} descriptors, {result.tasks} tasks"
        sys.stderr.write(f"{scenario.name}: {dict(result.account.ends)} {grown}: {state}\n")
        for example in result.account.examples:
            sys.stderr.write(f"    {example}\n")
    if options.json:
        rows = [dict(zip(_COLUMNS, result.row(), strict=True)) for result in results]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        sys.stdout.write(table(results) + "\n")
    return 0 if all(result.fine for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
