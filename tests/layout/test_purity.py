"""Who calls itself pure is held to it by import-linter."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CLAIM = re.compile(r"\[pure|(?:^|[.:]\s+)Pure\b(?! functions first| but for)|: pure\b|, pure\.", re.MULTILINE)
"""As docstrings of modules say it of the module: not of a function in it, nor of what it calls."""
CLOCKS_AND_SOCKETS = {"asyncio", "time", "os", "socket", "threading", "subprocess", "logging", "aiohttp"}


def claims(root: Path) -> set[str]:
    """Dotted names of the modules below a source root that call themselves pure."""
    texts = {file: ast.get_docstring(ast.parse(file.read_text())) or "" for file in root.rglob("*.py")}
    pure = (file.relative_to(root).with_suffix("") for file, text in texts.items() if CLAIM.search(text))
    return {".".join(name.parts).removesuffix(".__init__") for name in pure}


def held() -> set[str]:
    """Sources of the contracts that forbid everything a pure module must not have."""
    return {
        source
        for contract in PROJECT["tool"]["importlinter"]["contracts"]
        if contract["type"] == "forbidden" and set(contract["forbidden_modules"]) >= CLOCKS_AND_SOCKETS
        for source in contract["source_modules"]
    }


def test_each_module_that_calls_itself_pure_is_in_a_contract() -> None:
    known = PROJECT["tool"]["importlinter"]["root_packages"]
    folders = {folder for name in known for folder in ROOT.glob(f"*/{name}")}
    claimed = {name for folder in folders for name in claims(folder.parent)}
    assert len(claimed) > 50, "a pattern that finds none would call everything well"
    sources = held()
    # A contract of a package is one of its modules, too.
    alone = {name for name in claimed if not any(name == each or name.startswith(f"{each}.") for each in sources)}
    assert alone == set(), "add to the contract in pyproject.toml, or do not call it pure"


def test_claims_are_told_from_words_about_others(tmp_path: Path) -> None:
    for name, text in {
        "a": "Does it. [pure]",
        "b": "Pure: does it.",
        "c": "Does it.\n\nPure. More words.",
        "d": "Does it.\n\nBelongs here: pure naming.",
        "e": "Does it.\n\n`f` (pure) decides, and a pure function elsewhere.",
        "f": "Does it. Pure functions first, then the edge.",
        "g": "Does it.\n\nPure but for reading the file.",
    }.items():
        (tmp_path / f"{name}.py").write_text(f'"""{text}"""\n')
    assert claims(tmp_path) == {"a", "b", "c", "d"}
