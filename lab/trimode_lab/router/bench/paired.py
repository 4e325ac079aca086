"""`python -m trimode_lab.router.bench.paired OTHER`: the router of this tree against that of another checkout.

Both run at once before one server and are loaded in turns, a second or two each, so that whatever else the machine does
meets both. Each pair of turns gives one ratio of processor time; processes are started afresh several times, as two
processes of one program differ by some percent (addresses, hashes).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import quantiles

import uvloop

from trimode_lab.router.bench import processes as launch
from trimode_lab.router.bench.load import Result, Scenario, load, scenarios


def pairs(scenario: Scenario, other: Path, turns: int) -> list[tuple[Result, Result]]:
    """The other tree's router and this one's, in `turns` turns; which goes first changes."""
    here = Path(__file__).resolve().parents[4]
    found = []
    with (
        launch.servers(scenario, 1) as [(port, _)],
        launch.router([port], checkout=other) as theirs,
        launch.router([port], checkout=here) as ours,
    ):
        for turn in range(turns):
            order = (theirs, ours) if turn % 2 else (ours, theirs)
            first, second = (uvloop.run(load(scenario, *of, settle_s=0.2)) for of in order)
            found.append((first, second) if turn % 2 else (second, first))
    return found[1:]  # the first turn warms both up


def main() -> int:
    """Print new over old, with quartiles; exit code 1 where a request failed."""
    parser = argparse.ArgumentParser(
        prog="python -m trimode_lab.router.bench.paired", description="Processor time of two routers, in turns."
    )
    parser.add_argument("other", type=Path, help="the checkout to compare with")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument("--turns", type=int, default=13, help="of a pair of processes; the first does not count")
    parser.add_argument("--starts", type=int, default=4, help="pairs of processes")
    parser.add_argument("--only", choices=["short", "stream"])
    options = parser.parse_args()
    errors = 0
    for scenario in scenarios(options.seconds):
        if scenario.name == "alone" or options.only not in (None, scenario.name):
            continue
        scenario = Scenario(scenario.name, scenario.clients, scenario.chunks, scenario.pause_ms, options.seconds)
        runs = [pairs(scenario, options.other, options.turns) for _ in range(options.starts)]
        results = [pair for run in runs for pair in run]
        errors += sum(old.errors + new.errors for old, new in results)
        for what in ("cpu_ms_per_request", "cpu_us_per_chunk"):
            old, new = ([getattr(pair[side], what) for pair in results] for side in (0, 1))
            low, middle, high = quantiles([b / a for a, b in zip(old, new, strict=True)])
            spread = f"quartiles {low:.3f} to {high:.3f}, {len(results)} pairs"
            medians = f"{quantiles(old)[1]:.3f}, {quantiles(new)[1]:.3f}"
            sys.stdout.write(f"{scenario.name:>8} {what:>20} new/old {middle:.3f} ({spread}; {medians})\n")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
