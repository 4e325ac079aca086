"""`python -m trimode_e2e prepare`: see to a control plane, or say what this machine lacks for one.

`python -m trimode_e2e record`: record KubeRay's statuses on it for the operator's unit tests (8 minutes, root).

`python -m trimode_e2e record-gateway`: record what Envoy Gateway, built first, makes of the examples (root).

`python -m trimode_e2e record-collector`: record what OpenTelemetry's collector, built first, gets from a router.

`python -m trimode_e2e record-picker`: record where an endpoint picker, built first, sends requests to routers (root).

`python -m trimode_e2e record-kueue`: record what Kueue, built first, makes of fleets in its queues (root).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from trimode_e2e.control.provide import prepare
from trimode_e2e.errors import HarnessError
from trimode_e2e.recording import collectors, gateways, pickers, queues, scenarios


def main(words: list[str]) -> int:
    """Returns the exit status: 2 where the words are wrong, 1 where it failed."""
    doing: dict[str, Callable[[], None]] = {
        "prepare": lambda: say(f"control plane: {prepare(say)}"),
        "record": lambda: scenarios.record(say),
        "record-gateway": lambda: gateways.record(say),
        "record-collector": lambda: collectors.record(say),
        "record-picker": lambda: pickers.record(say),
        "record-kueue": lambda: queues.record(say),
    }
    if len(words) != 1 or words[0] not in doing:
        sys.stderr.write(f"usage: python -m trimode_e2e {'|'.join(doing)}, not {' '.join(words)!r}\n")
        return 2
    try:
        doing[words[0]]()
    except HarnessError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    return 0


def say(line: str) -> None:
    """Progress goes to the terminal at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
