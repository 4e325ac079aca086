"""`python -m trimode_lab.router.rivals`: measure every router that is installed, side by side."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from trimode_lab.router.rivals.measure import OURS, compare, installed, scenarios
from trimode_lab.router.rivals.report import table, write


def main() -> int:
    """Print the table; exit code 1 where our own requests failed."""
    parser = argparse.ArgumentParser(prog="python -m trimode_lab.router.rivals", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a scenario in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for bench-router.json and .png, and the table in router.md")
    parser.add_argument("--bin", action="append", default=[], metavar="DIR", help="where else to look for routers")
    parser.add_argument("--only", help="one scenario: short, stream, alone or crowd")
    options = parser.parse_args()
    path = os.pathsep.join([*options.bin, os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    rivals = installed(path)
    names = ", ".join(candidate.name for candidate in rivals)
    sys.stderr.write(f"beside us: {names or 'none found: pip install vllm-router, apt install nginx'}\n")
    outcomes = []
    for scenario in scenarios(options.seconds):
        if options.only in (None, scenario.name):
            sys.stderr.write(f"{scenario.name} ...\n")
            rounds = 1 if scenario.name == "crowd" else options.rounds
            outcomes += compare(scenario, rivals, rounds)
    sys.stdout.write(table(outcomes) + "\n")
    if options.out is not None:
        about: dict[str, object] = {
            "cores": os.cpu_count(),
            "rounds": options.rounds,
            "seconds each": options.seconds,
            "load average": round(os.getloadavg()[0], 1),
            "date": datetime.now(UTC).date().isoformat(),
        }
        write(outcomes, options.out, about)
    return int(any(outcome.failed for outcome in outcomes if outcome.candidate == OURS))


if __name__ == "__main__":
    sys.exit(main())
