"""A process that runs one pool on its own Ray, as the command line does: settings from argv, `stop` on stdin.

Bound to the loopback interface. Prints `deployed`, and `stopped` when everything is down.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from trimode_local import ray_local
from trimode_workers.replica.settings import PoolSettings


def main() -> None:
    settings = PoolSettings.model_validate_json(Path(sys.argv[1]).read_bytes())
    ray_local.adopt_environment()
    with tempfile.TemporaryDirectory(dir=ray_local.short_folder(), ignore_cleanup_errors=True) as folder:
        local = ray_local.start(Path(folder), num_cpus=4, num_gpus=0, go_on=lambda: None)
        try:
            run(settings)
        finally:
            local.stop()
    print("stopped", flush=True)


def run(settings: PoolSettings) -> None:
    from trimode_workers import app

    app.deploy([settings])
    print("deployed", flush=True)
    for line in sys.stdin:
        if line.startswith("scale "):
            count = int(line.split()[1])
            settings = settings.model_copy(update={"min_replicas": count, "max_replicas": count})
            app.deploy([settings])
        elif line.strip() == "states":
            print(app.states([settings]), flush=True)
        else:
            break
    app.shutdown()


main()
