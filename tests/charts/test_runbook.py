"""The runbook has a heading for every word that the operator can write into a status, a metric or an alert."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import trimode_operator.kube.lease  # noqa: F401 - defines an error
from trimode_operator import plan
from trimode_operator.errors import OperatorError
from trimode_operator.status.reasons import ConditionType, Reason
from trimode_policy.rebalance import MoveReason

ROOT = Path(__file__).resolve().parents[2]
PASSED_ON = {"Forbidden", "Invalid", "Conflict", "Timeout"}
"""Words of the API server and of Python that the operator passes on, as far as they are expected."""


def errors(kind: type[OperatorError]) -> Iterator[str]:
    """The reasons of an error and of those below it; ApiFailure has the API server's instead."""
    if isinstance(vars(kind).get("reason"), str):
        yield kind.reason
    for below in kind.__subclasses__():
        yield from errors(below)


def notes() -> set[str]:
    """The reasons of notes, as the plan's source has them."""
    found: set[str] = set()
    for path in Path(plan.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Note":
                reason = node.args[1]
                assert isinstance(reason, ast.Constant), f"{path.name}: a note's reason is written out"
                found.add(str(reason.value))
    return found


def headings() -> list[str]:
    return re.findall(r"^### (.+)$", (ROOT / "docs" / "runbook.md").read_text(), flags=re.MULTILINE)


def alerts() -> set[str]:
    text = (ROOT / "charts" / "trimode" / "files" / "alerts.yaml").read_text()
    return set(re.findall(r"- alert: (\w+)", text))


def test_every_condition_and_reason_is_explained_once_and_nothing_else() -> None:
    words = {f"Condition: {kind}" for kind in ConditionType} | set(map(str, Reason))
    words |= {f"Rebalancing: {reason}" for reason in MoveReason}
    words |= set(errors(OperatorError)) | notes() | alerts() | PASSED_ON
    found = headings()
    assert len(set(found)) == len(found)
    assert words - set(found) == set(), "not in docs/runbook.md"
    assert set(found) - words == set(), "in docs/runbook.md only"


@pytest.mark.parametrize("heading", headings())
def test_no_heading_is_empty(heading: str) -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    body = text.split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    assert len(body.split()) >= 3


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_links_within_the_docs_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        if anchor:
            found = {
                re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
                for heading in re.findall(r"^#+ (.+)$", linked.read_text(), flags=re.MULTILINE)
            }
            assert anchor in found, target
