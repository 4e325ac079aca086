"""What was found, kept as JSON and told as a table. [pure]"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

BEGIN, END = "<!-- clients: begin -->", "<!-- clients: end -->"
_MOST_SAID = 200


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a client was asked to do; `said`: why not, where it did not."""

    name: str
    ok: bool
    said: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one client."""

    client: str
    versions: dict[str, str]
    checks: list[Check]
    date: str

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Outcome:
        checks = [Check(**check) for check in stored["checks"]]
        return cls(stored["client"], stored["versions"], checks, stored["date"])

    def stored(self) -> dict[str, Any]:
        return asdict(self)


def merged(before: list[Outcome], now: list[Outcome], order: list[str]) -> list[Outcome]:
    """Those of `now` in the place of earlier ones; clients that are tried no more are dropped."""
    latest = {outcome.client: outcome for outcome in [*before, *now]}
    return [latest[name] for name in order if name in latest]


def table(outcomes: list[Outcome]) -> str:
    """A row for each client."""
    lines = ["| client | versions | works | does not | tried |", "|---|---|---|---|---|"]
    for outcome in outcomes:
        versions = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
        works = ", ".join(check.name for check in outcome.checks if check.ok) or "-"
        fails = "; ".join(f"{check.name}: {_cell(check.said)}" for check in outcome.checks if not check.ok) or "-"
        lines.append(f"| {outcome.client} | {versions} | {works} | {fails} | {outcome.date} |")
    return "\n".join(lines)


def page(text: str, outcomes: list[Outcome]) -> str:
    """`text` with the table between its marks. Raises ValueError where it has none."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks {BEGIN} or {END}")
    return f"{head}{BEGIN}\n{table(outcomes)}\n{END}{tail}"


def _cell(said: str) -> str:
    """On one line of a table, without addresses of this machine."""
    plain = re.sub(r"\s+", " ", said).replace("|", "/").replace("<", "&lt;")
    plain = re.sub(r"(/[\w.+-]+){2,}/", ".../", plain)
    return plain if len(plain) <= _MOST_SAID else plain[:_MOST_SAID] + "..."
