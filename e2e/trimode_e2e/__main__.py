"""`python -m trimode_e2e build`: make the control plane's binaries, or say what this machine lacks for it."""

from __future__ import annotations

import sys

from trimode_e2e.control.build import COMMANDS, NODE_COMMANDS, build
from trimode_e2e.errors import HarnessError

_CHOICES = {"build": COMMANDS, "build-node": (*COMMANDS, *NODE_COMMANDS)}


def main(words: list[str]) -> int:
    """Returns the exit status: 2 where the words are wrong, 1 where it failed."""
    if len(words) != 1 or words[0] not in _CHOICES:
        sys.stderr.write(f"usage: python -m trimode_e2e {{{','.join(_CHOICES)}}}, not {' '.join(words)!r}\n")
        return 2
    try:
        folder = build(say, _CHOICES[words[0]])
    except HarnessError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    say(f"binaries are in {folder}")
    return 0


def say(line: str) -> None:
    """Progress goes to the terminal at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
