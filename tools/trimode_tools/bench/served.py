"""What the router's part of the benchmark runs against: a `trimode up` of its own, or one that is already there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import yaml

from trimode_local.client import KEY_VARIABLE, Endpoint
from trimode_local.errors import StartFailed
from trimode_local.reaper import die_with_parent
from trimode_tools.bench.load import Job, Tally

RESOURCE = {
    "apiVersion": "trimode.dev/v1alpha1",
    "kind": "NemotronDeployment",
    "metadata": {"name": "bench"},
    "spec": {
        "model": {"uri": "tiny://", "servedName": "tiny"},
        "engine": {"maxContextTokens": 1024, "maxRunningRequests": 64},
        "pools": [{"name": "flex", "modes": ["AR", "SelfSpeculation"], "blockLengths": [8, 16, 32]}],
        "tiers": [{"name": "standard", "tpotMilliseconds": 50}],
    },
}
"""As examples/tiny.yaml, under a name that no `up` of the user has."""

_READY = re.compile(r"^ready: \S+ at (http://\S+)/v1$")
STOP_TIMEOUT_S = 60.0


@contextmanager
def endpoint(url: str | None) -> Iterator[Endpoint]:
    """The endpoint at `url`, or one that is served as long as the context lasts."""
    if url is not None:
        yield Endpoint(url, key=os.environ.get(KEY_VARIABLE, ""))
        return
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "trimode_cli.main", "up", "--file", "-", "--port", "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=die_with_parent,
            process_group=0,  # Ctrl-C reaches the benchmark only, which then ends it in order
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with process.stdin as stream:
                yaml.safe_dump(RESOURCE, stream)
            ready = next(filter(None, (_READY.match(line.strip()) for line in process.stdout)), None)
            if ready is None:
                errors.seek(0)
                raise StartFailed(f"`trimode up` did not get ready:\n{errors.read().strip()}")
            yield Endpoint(ready[1])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_TIMEOUT_S)


class Load:
    """The load's process; one job at a time."""

    def __init__(self, url: str, model: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trimode_tools.bench.load", url, model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(os.environ),
            preexec_fn=die_with_parent,
        )

    def begin(self, job: Job) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
        self._process.stdin.flush()

    def end(self) -> Tally:
        """What came of the job. Raises StartFailed where the process has died."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise StartFailed("the load's process ended in the middle of a job")
        return Tally(**json.loads(line))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
