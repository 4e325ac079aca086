"""docs/compare.md and docs/cluster-tests.md name tests: they are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [(ROOT / "docs" / name).read_text() for name in ("compare.md", "cluster-tests.md")]
NAMED = sorted({found for page in PAGES for found in re.findall(r"`?(tests/[\w/]+\.py)::(\w+)`", page)})


def test_it_names_some() -> None:
    assert len(NAMED) > 10


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_named_test_exists(file: str, name: str) -> None:
    assert re.search(rf"^\s*(?:async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
