"""Command blocks of a Markdown page.

Belongs here: reading them, and the invisible comments right above a block that say what a test has to know of it:
`<!-- needs: docker, internet -->` names what a machine without it cannot run, `<!-- refused: TEXT -->` says that the
block is to fail with these words.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NEEDS = {
    "by hand": "a build of some minutes that no test waits for",
    "docker": "a docker daemon",
    "internet": "programs or charts from the internet",
    "kind": "kind, which needs docker",
    "two servers": "OpenAI-compatible servers, which the page is not about",
    "make kind-test": "the test run itself is what it starts",
}
"""What blocks may say that they need, and what is meant."""
SHELL = ("", "sh", "bash")
"""Languages of fences with commands."""

_FENCE = re.compile(r"^\s*(```+|~~~+)\s*(\S*)")
_COMMENT = re.compile(r"^\s*<!--\s*(needs|refused):\s*(.*?)\s*-->\s*$")
_HEADING = re.compile(r"^#+\s+(.*)$")


@dataclass(frozen=True, slots=True)
class Block:
    """Commands as they are written. `line` is the first one's, counted from 1; `heading` is the nearest above."""

    page: str
    line: int
    heading: str
    text: str
    needs: tuple[str, ...] = ()
    refused: str = ""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All command blocks, in the page's order. Raises ValueError for a comment that is above no block."""
    return list(_blocks(page.name, page.read_text().splitlines()))


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    heading, said, number = "", dict[str, str](), 0
    while number < len(lines):
        line, number = lines[number], number + 1
        if comment := _COMMENT.match(line):
            said[comment[1]] = comment[2]
        elif fence := _FENCE.match(line):
            begun = number
            while number < len(lines) and lines[number].strip() != fence[1]:
                number += 1
            if fence[2] in SHELL:
                needs = tuple(filter(None, re.split(r",\s*", said.get("needs", ""))))
                text = textwrap.dedent("\n".join(lines[begun:number]) + "\n")  # indented below a list's item
                yield Block(page, begun + 1, heading, text, needs, said.get("refused", ""))
            said, number = {}, number + 1
        elif said:
            raise ValueError(f"{page}:{number - 1}: a comment on commands, and none below it")
        elif found := _HEADING.match(line):
            heading = found[1]
