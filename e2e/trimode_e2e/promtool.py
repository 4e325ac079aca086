"""promtool, for the tests of alerts: Prometheus' own judge of rules.

Belongs here: finding it. Where the machine has none, Debian's is fetched once into the cache folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from trimode_e2e.control.build import cache_folder
from trimode_e2e.control.debian import Debian, unpack
from trimode_e2e.errors import Broken, Missing

SUITE, PACKAGE = "bookworm", "prometheus"


def find() -> Path:
    """The machine's promtool, or Debian's. Raises Missing with how to get it where there is neither."""
    if at_hand := shutil.which("promtool"):
        return Path(at_hand)
    root = cache_folder().parent / PACKAGE
    program = root / "usr/bin/promtool"
    if program.exists():
        return program
    debian = Debian(SUITE, root / "apt")
    try:
        debian.prepare()
        unpack(debian.download(root / "debs", PACKAGE), root)
    except (Missing, Broken) as error:
        raise Missing(
            f"promtool is not on the path (apt-get install {PACKAGE}, or Prometheus' release), nor fetched: {error}"
        ) from error
    if not program.exists():
        raise Broken(f"Debian's {PACKAGE} has no promtool")
    return program
