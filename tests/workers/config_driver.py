"""A process that runs Serve's configuration on its own Ray, as KubeRay has it done: files named on stdin, one a line.

Bound to the loopback interface. Answers each line: `deployed`, or for `states` a JSON line of what Serve says. What
Ray prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

import yaml

from trimode_local import ray_local


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ray_local.adopt_environment()
    with tempfile.TemporaryDirectory(dir=ray_local.short_folder(), ignore_cleanup_errors=True) as folder:
        local = ray_local.start(Path(folder), num_cpus=4, num_gpus=0, go_on=lambda: None)
        try:
            run(answers)
        finally:
            local.stop()


def run(answers: TextIO) -> None:
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    serve.start(proxy_location="Disabled")
    client: Any = _get_global_client()
    for line in sys.stdin:
        if line.strip() == "states":
            applications = serve.status().applications
            said = {name: [app.status.value, app.message] for name, app in applications.items()}
            print(json.dumps(said), file=answers, flush=True)
        else:
            client.deploy_apps(ServeDeploySchema.model_validate(yaml.safe_load(Path(line.strip()).read_text())))
            print("deployed", file=answers, flush=True)


main()
