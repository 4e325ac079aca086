"""What is shipped: the wheel holds what serves and the tools, and nothing of the lab."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAB = ("trimode_lab", "trimode_e2e", "testing", "tests")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (file,) = out.glob("*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_holds_the_packages_that_serve_and_the_tools(wheel: zipfile.ZipFile) -> None:
    packages = {name.split("/")[0] for name in wheel.namelist() if ".dist-info" not in name}
    assert packages == {
        "trimode_api", "trimode_policy", "trimode_workers", "trimode_router", "trimode_operator", "trimode_local",
        "trimode_tools", "trimode_cli",
    }  # fmt: skip


def test_nothing_of_the_lab_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    assert [name for name in wheel.namelist() if set(name.split("/")) & set(LAB)] == []


def test_what_is_shipped_never_imports_the_lab(wheel: zipfile.ZipFile) -> None:
    """Also inside functions, which import-linter sees, and by name, which it does not."""
    found = [
        f"{name}: {text}"
        for name in wheel.namelist()
        if name.endswith(".py")
        for text in _texts(wheel.read(name).decode())
        if text.startswith(("trimode_lab", "trimode_e2e"))
    ]
    assert found == []


def _texts(source: str) -> Iterator[str]:
    """Modules that are imported, and short strings, which may name one to be run."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
            yield node.value
