"""The size and the shape of the code: `python -m trimode_lab.count [ROOT]`.

Lines by wing, how finely functions are cut, how much is explained, and circles of imports. A figure to compare with
an earlier one, not a limit.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WINGS = {
    "serves": ("crds", "policy", "workers", "router", "operator", "local", "cli"),
    "tools": ("tools",),
    "lab": ("lab",),
}
MOST_PARAMETERS = 5

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A module, parsed. `name` is dotted."""

    name: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @property
    def head(self) -> int:
        """Lines up to the last import: docstring, imports, what stands between."""
        imports = [node.end_lineno or 0 for node in self.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        return max(imports, default=0)

    @property
    def comments(self) -> int:
        """Lines that are nothing but a comment, linters' marks apart."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return sum(
            token.type == tokenize.COMMENT
            and token.line.lstrip().startswith("#")
            and not token.string.startswith(("# type:", "# noqa", "# fmt:"))
            for token in tokens
        )

    def functions(self) -> Iterator[Function]:
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))

    def called_once(self) -> int:
        """Private functions whose name is used exactly once in the module."""
        used = Counter(node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name))
        used.update(node.attr for node in ast.walk(self.tree) if isinstance(node, ast.Attribute))
        private = (each.name for each in self.functions() if each.name.startswith("_") and not each.name.endswith("__"))
        return sum(used[name] == 1 for name in private)

    def imported(self, names: set[str]) -> set[str]:
        """Which of `names` are imported when this module is, by statements outside functions."""
        found: set[str] = set()
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{each.name}" for each in node.names}
                # A module taken from its package needs the module; the package is there by then.
                found |= inner if inner <= names else {node.module, *inner}
            elif isinstance(node, ast.Import):
                found |= {each.name for each in node.names}
        return found & names


def read(root: Path, folders: tuple[str, ...]) -> list[Module]:
    """Every module below the source roots `folders` of `root`."""
    modules = []
    for folder in folders:
        for file in sorted((root / folder).rglob("*.py")):
            parts = file.relative_to(root / folder).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = file.read_text(encoding="utf-8")
            modules.append(Module(name, text, ast.parse(text)))
    return modules


def parameters(function: Function) -> int:
    """How many a caller may give, the object itself apart."""
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def circles(modules: list[Module]) -> list[list[str]]:
    """Groups of modules that import each other (Tarjan's strongly connected components)."""
    names = {each.name for each in modules}
    edges = {each.name: each.imported(names) - {each.name} for each in modules}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def connect(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in edges[name]:
            if other not in index:
                connect(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(names):
        if name not in index:
            connect(name)
    return found


def row(wing: str, modules: list[Module]) -> str:
    """One line of the table."""
    lines = sum(each.lines for each in modules)
    functions = [function for each in modules for function in each.functions()]
    once = sum(each.called_once() for each in modules)
    many = sum(parameters(function) > MOST_PARAMETERS for function in functions)
    return (
        f"| {wing} | {lines:,} | {len(modules)} | {len(functions):,} | {once / max(len(functions), 1):.1%} "
        f"| {sum(each.head for each in modules) / max(lines, 1):.1%} "
        f"| {sum(each.comments for each in modules) / max(lines, 1):.2%} | {many} |"
    )


def main(root: Path) -> None:
    everything: list[Module] = []
    out = sys.stdout
    out.write("| wing | lines | modules | functions | called once | heads | comments | over five parameters |\n")
    out.write("|---|---|---|---|---|---|---|---|\n")
    for wing, folders in WINGS.items():
        modules = read(root, folders)
        everything += modules
        out.write(row(wing, modules) + "\n")
    out.write(row("all", everything) + "\n")
    found = circles(everything)
    out.write(f"circles of imports: {len(found)}\n" + "".join(f"  {', '.join(each)}\n" for each in found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m trimode_lab.count", description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path(), help="of a checkout; this folder without it")
    main(parser.parse_args().root)
