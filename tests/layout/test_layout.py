"""The tree keeps the shape that packaging, imports and tools rely on."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ("crds", "policy", "workers", "router", "operator", "local", "tools", "cli")
SOURCE_ROOTS = (*SHIPPED, "lab", "e2e")


@pytest.mark.parametrize("folder", [*SOURCE_ROOTS, "tests", "tests/operator"])
def test_no_package_hides_a_standard_module(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists(), (
        f"{folder}/__init__.py makes a package of a source root; one called operator hides the standard library's"
    )


@pytest.mark.parametrize("folder", SOURCE_ROOTS)
def test_each_source_root_holds_one_typed_package(folder: str) -> None:
    packages = [p.parent.name for p in (ROOT / folder).glob("*/__init__.py")]
    assert len(packages) == 1
    assert packages[0].startswith("trimode_")
    assert (ROOT / folder / packages[0] / "py.typed").exists()


def test_packaging_lists_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert listed == {str(p.parent.relative_to(ROOT)) for r in SHIPPED for p in (ROOT / r).glob("*/__init__.py")}


def test_the_standard_library_survives_our_roots_on_the_path() -> None:
    code = "import collections, operator; assert operator.itemgetter(0)('a') == 'a'; print(operator.__file__)"
    roots = ":".join(str(ROOT / r) for r in (".", *SOURCE_ROOTS))
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": roots}, capture_output=True, text=True, check=True
    )
    assert str(ROOT) not in done.stdout


def test_test_file_names_are_unique() -> None:
    names = [p.name for p in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_every_tracked_file_is_of_a_sane_size() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout: nothing to compare with")
    large = [
        n for n in listing.stdout.split("\0") if n and (ROOT / n).exists() and (ROOT / n).stat().st_size > 16_000_000
    ]
    assert large == []
