"""`python -m trimode_lab.router.bench`: run the scenarios, print a table."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

import uvloop

from trimode_lab.router.bench import processes as launch
from trimode_lab.router.bench.load import Result, Scenario, load, scenarios


def run(scenario: Scenario, *, direct: bool = False, processes: int = 1) -> Result:
    """Start the processes, run, end them. `direct` leaves the router out, as the baseline."""
    with launch.servers(scenario, 1) as [(port, server)]:
        if direct:
            return uvloop.run(load(scenario, port, server))
        with launch.router([port], processes=processes) as (own, pid):
            return uvloop.run(load(scenario, own, pid))


def main() -> int:
    """Print a table, or JSON with `--json`; exit code 1 where a request failed."""
    parser = argparse.ArgumentParser(
        prog="python -m trimode_lab.router.bench", description="What the router costs, in CPU time of its process."
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each scenario")
    parser.add_argument("--only", help="run one scenario: short, stream or alone")
    parser.add_argument("--direct", action="store_true", help="without the router: the harness's own share")
    parser.add_argument("--processes", type=int, default=1, help="routers on one port")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chosen = [s for s in scenarios(options.seconds) if options.only in (None, s.name)]
    results = [run(scenario, direct=options.direct, processes=options.processes) for scenario in chosen]
    out = sys.stdout
    if options.json:
        out.write(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    else:
        names = list(asdict(results[0]))
        out.write("  ".join(f"{name:>18}" for name in names) + "\n")
        for result in results:
            out.write("  ".join(f"{value:>18}" for value in asdict(result).values()) + "\n")
    return 1 if any(result.errors for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
