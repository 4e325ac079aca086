"""The commands of the docs, as they are written, in the order of a user's life: install, upgrade, repair, uninstall.

Blocks that say what they need (`<!-- needs: docker -->`) are skipped and say so. What differs from a user's machine:
requests of the operator's and routers' pods are smaller, to fit a node of two cores, and instead of pulling the image
from the registry of docs/install.md the node has it under that name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from trimode_e2e.crds import ROOT
from trimode_e2e.helm import SMALL_VALUES, Helm
from trimode_e2e.kubectl import kubectl_program
from trimode_e2e.pages import Block, blocks
from trimode_e2e.shell import Shell
from trimode_e2e.world import KIND, VERSION, World

pytestmark = pytest.mark.timeout(1800)

RELEASE, HOME = "trimode", "trimode-system"
IMAGE = "docker.io/library/trimode:0.1.0"
REGISTRY = "registry.example.com/models"
"""As docs/install.md has it."""
UNINSTALL = "Uninstall"
"""The heading of docs/install.md from which on things go away."""


def of(page: str) -> list[Block]:
    return blocks(ROOT / "docs" / page)


def in_order() -> list[Block]:
    """docs/install.md up to its last part, what needs a fleet, the rest of it; the quickstart brings its own fleet."""
    install = of("install.md")
    here = [block for block in install if block.heading != UNINSTALL]
    away = [block for block in install if block.heading == UNINSTALL]
    return [*here, *of("upgrade.md"), *of("runbook.md"), *away, *of("quickstart-kind.md")]


@pytest.fixture(scope="module")
def bare(installed: World, helm: Helm) -> Iterator[World]:
    """A cluster without the chart and without resources; at the end, with the chart as other tests have it."""
    if found := installed.api.listed(VERSION, KIND):
        names = ", ".join(each["metadata"]["name"] for each in found)
        pytest.skip(f"docs/install.md deletes every NemotronDeployment at its end, and there are some: {names}")
    helm.uninstall(release=RELEASE, namespace=HOME)
    if installed.cluster.node:
        installed.cluster.node.name_image(IMAGE, f"{REGISTRY}/trimode:0.1.0")
    yield installed
    if RELEASE not in helm("list", "--namespace", HOME, "--short").split():
        helm.install(ROOT / "charts" / "trimode", SMALL_VALUES, "--wait", release=RELEASE, namespace=HOME)


@pytest.fixture(scope="module")
def shell(bare: World, helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """One terminal for all pages, with our kubectl and helm on the path."""
    folder = tmp_path_factory.mktemp("docs")
    programs, home = folder / "bin", folder / "home"
    for each in (programs, home):
        each.mkdir()
    (programs / "kubectl").symlink_to(kubectl_program())
    values = folder / "small.yaml"
    values.write_text(yaml.safe_dump(dict(SMALL_VALUES)))
    small_helm(programs / "helm", helm.program, values)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(home),
        "KUBECONFIG": str(bare.cluster.kubeconfig),
        "NO_PROXY": "*",
    }
    running = Shell.start(folder, ROOT, environment)
    yield running
    running.stop()


def small_helm(file: Path, program: Path, values: Path) -> None:
    """helm, but that an installation of our chart takes these values, too; upgrades keep them."""
    file.write_text(
        f'#!/bin/sh\ncase "$1 $2" in\n"install {RELEASE}") exec {program} "$@" --values {values} ;;\n'
        f'*) exec {program} "$@" ;;\nesac\n'
    )
    file.chmod(0o755)


@pytest.mark.parametrize("block", in_order(), ids=lambda block: block.place)
def test_commands_of_the_docs(shell: Shell, block: Block) -> None:
    if block.needs:
        pytest.skip(f"docs/{block.place} was not run: it needs {', '.join(block.needs)}")
    status, printed = shell.run(block.text)
    print(f"\n{block.text}{printed}")
    if block.refused:
        assert status != 0, "it was to be refused"
        assert block.refused in printed
    else:
        assert status == 0, f"docs/{block.place}: status {status}\n{block.text}{printed}"
