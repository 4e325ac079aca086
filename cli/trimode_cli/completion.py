"""Shell completion of `kubectl trimode`: kubectl runs `kubectl_complete-trimode` for it.

Belongs here: what may stand at the end of a command line. kubectl hands over the words behind `trimode`, the last one
as far as it is typed, and reads a line for each proposal and, last, what the shell shall do with them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

from trimode_cli.kubectl import AUTO, MODES, app

NO_FILES = ":4"
"""kubectl's ShellCompDirectiveNoFileComp: names of files are no proposals."""
_SHORT, _LONG = "-n", ("--namespace", "--context")


def proposals(words: Sequence[str], names: Callable[[Sequence[str]], Sequence[str]]) -> list[str]:
    """What may replace the last of `words`. `names` tells the resources there are, by kubectl's options."""
    *before, typed = words or [""]
    options: list[str] = []  # that kubectl takes
    given: list[str] = []
    rest = iter(before)
    for word in rest:
        if word in (_SHORT, *_LONG):
            options += [word, next(rest, "")]
        elif word.startswith("-"):
            options += [word] if word.startswith(tuple(f"{each}=" for each in _LONG)) else []
        else:
            given.append(word)
    commands = [command.callback.__name__ for command in app.registered_commands if command.callback is not None]
    if not given:
        found: Sequence[str] = commands
    elif given[0] not in commands:
        found = ()
    elif len(given) == 1:
        found = names(options)
    else:
        found = (*MODES, AUTO) if given[0] == "mode" and len(given) == 2 else ()
    if typed.startswith("-"):
        found = ("--namespace", "--context", "--help")
    return [each for each in found if each.startswith(typed)]


def resources(options: Sequence[str]) -> list[str]:
    """Names of resources; none where kubectl cannot tell within two seconds: a shell waits for this."""
    command = ["kubectl", *options, "get", "nemotrondeployments", "--output=name", "--request-timeout=2s"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=3)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.rpartition("/")[2] for line in done.stdout.split()] if done.returncode == 0 else []


def main() -> None:
    """Print proposals for the words of the command line."""
    print("\n".join([*proposals(sys.argv[1:], resources), NO_FILES]))  # noqa: T201 - what kubectl reads


if __name__ == "__main__":
    main()
