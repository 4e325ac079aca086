"""The commands of docs/platform.md as they are written, on paper: the operator runs, and no pod does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from trimode_e2e import crds
from trimode_e2e.crds import ROOT
from trimode_e2e.errors import Missing
from trimode_e2e.operator_process import Operator
from trimode_e2e.pages import Block, blocks
from trimode_e2e.shell import Shell
from trimode_e2e.world import World

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

COMMANDS = [block for block in blocks(ROOT / "docs" / "platform.md") if not block.needs]


@pytest.fixture(scope="module")
def shell(world: World, operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    try:
        world.install(crds.scaled_object())
    except Missing as exc:
        pytest.skip(str(exc))
    running = Shell.terminal(tmp_path_factory.mktemp("docs"), ROOT, world.cluster.kubeconfig)
    yield running
    running.stop()


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block.place)
def test_commands_of_the_platforms_page(shell: Shell, block: Block) -> None:
    status, printed = shell.run(block.text, timeout_s=400)
    assert status == 0, f"docs/{block.place}: status {status}\n{block.text}{printed}"
