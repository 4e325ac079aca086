"""What the Containerfile says about the image, so that the image built without docker is the same.

Belongs here: reading of the Containerfile and of pyproject.toml, pure but for these files.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

from trimode_e2e.crds import ROOT
from trimode_e2e.errors import Broken


@dataclass(frozen=True, slots=True)
class Described:
    """The image as the last stage of a Containerfile has it. `suite` is the release of Debian that it builds on."""

    suite: str
    environment: dict[str, str]
    folder: str
    user: str
    command: list[str]
    labels: dict[str, str]


def described(text: str) -> Described:
    """Read a Containerfile. Raises Broken where its last stage lacks something."""
    lines = _instructions(text)
    last = max(place for place, (name, _) in enumerate(lines) if name == "FROM")
    stage = lines[last:]
    suite = re.search(r"-slim-(\w+)", stage[0][1])
    if suite is None:
        raise Broken(f"the Containerfile's last FROM names no slim image of Debian: {stage[0][1]}")
    return Described(
        suite=suite[1],
        environment=_pairs(stage, "ENV"),
        folder=_only(stage, "WORKDIR"),
        user=_only(stage, "USER"),
        command=json.loads(_only(stage, "CMD")),
        labels=_pairs(stage, "LABEL"),
    )


def ours() -> Described:
    return described((ROOT / "Containerfile").read_text())


def requirements() -> list[str]:
    """What the image's lock files are resolved from, by the very script that does."""
    found: list[str] = runpy.run_path(str(ROOT / "charts" / "lock.py"))["requirements"](_pyproject())
    return found


def packages() -> list[Path]:
    """The folders of which the wheel is made."""
    targets = tomllib.loads(_pyproject())["tool"]["hatch"]["build"]["targets"]
    return [ROOT / folder for folder in targets["wheel"]["packages"]]


def _pyproject() -> str:
    return (ROOT / "pyproject.toml").read_text()


def _instructions(text: str) -> list[tuple[str, str]]:
    """Name and the rest of each; comments are gone and continued lines are one."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", kept).splitlines()
    return [(name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in joined) if name]


def _pairs(stage: list[tuple[str, str]], name: str) -> dict[str, str]:
    words = [word for found, rest in stage if found == name for word in shlex.split(rest)]
    return dict(word.split("=", 1) for word in words)


def _only(stage: list[tuple[str, str]], name: str) -> str:
    found = [rest for told, rest in stage if told == name]
    if len(found) != 1:
        raise Broken(f"the Containerfile's last stage has {len(found)} lines with {name}, not one")
    return found[0]
