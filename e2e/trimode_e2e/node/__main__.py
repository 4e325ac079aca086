"""`python -m trimode_e2e.node`: see to everything that a node needs, or say why this machine cannot hold one."""

from __future__ import annotations

import sys

from trimode_e2e.__main__ import say
from trimode_e2e.control.build import COMMANDS, NODE_COMMANDS, build
from trimode_e2e.errors import HarnessError, Missing
from trimode_e2e.node import machine, runtime


def main() -> int:
    """Returns the exit status. Where this machine cannot, that is 0: the tests are skipped with the same words."""
    try:
        machine.require()
    except Missing as exc:
        say(f"the tests on a node will be SKIPPED: {exc}")
        return 0
    try:
        build(say, (*COMMANDS, *NODE_COMMANDS))  # in one go: each would unpack the sources anew
        found = runtime.prepare(say)
    except HarnessError as exc:
        say(f"error: {exc}")
        return 1
    say(f"node: {found.kubernetes} and {found.debian}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
