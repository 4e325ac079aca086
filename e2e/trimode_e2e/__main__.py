"""`python -m trimode_e2e prepare`: see to a control plane, or say what this machine lacks for one.

`python -m trimode_e2e record`: record KubeRay's statuses on it for the operator's unit tests (8 minutes, root).
"""

from __future__ import annotations

import sys

from trimode_e2e.control.provide import prepare
from trimode_e2e.errors import HarnessError
from trimode_e2e.recording.scenarios import record


def main(words: list[str]) -> int:
    """Returns the exit status: 2 where the words are wrong, 1 where it failed."""
    if words not in (["prepare"], ["record"]):
        sys.stderr.write(f"usage: python -m trimode_e2e prepare|record, not {' '.join(words)!r}\n")
        return 2
    try:
        if words == ["record"]:
            record(say)
        else:
            say(f"control plane: {prepare(say)}")
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
