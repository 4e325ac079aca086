"""A process that runs one pool on its own Ray, as the command line does: settings from argv, `stop` on stdin.

Bound to the loopback interface. Prints `deployed`, and `stopped` when everything is down.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ray

from trimode_workers import app
from trimode_workers.replica.settings import PoolSettings


def main() -> None:
    settings = PoolSettings.model_validate_json(Path(sys.argv[1]).read_bytes())
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=80 * 1024 * 1024,
        log_to_driver=False,
    )
    app.deploy([settings])
    print("deployed", flush=True)
    for line in sys.stdin:
        if line.strip() == "states":
            print(app.states([settings]), flush=True)
        else:
            break
    app.shutdown()
    ray.shutdown()
    print("stopped", flush=True)


main()
