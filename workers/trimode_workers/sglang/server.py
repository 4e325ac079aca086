"""The server's process: its start, its log, its end. Each server has its own log file; the last few are kept."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from trimode_workers.process.spawn import die_with_parent
from trimode_workers.replica.settings import EngineOptions
from trimode_workers.sglang.command import launch
from trimode_workers.sglang.options import SGLangOptions

KEPT_LOGS = 10
_TAIL_BYTES = 64 * 1024
_SHOWN = 400


def log_folder() -> Path:
    """Where servers' logs are."""
    return Path(tempfile.gettempdir(), f"trimode-sglang-{os.getuid()}")


@dataclass(slots=True)
class Server:
    """A running server. `url` is on the loopback interface."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @classmethod
    def start(cls, engine: EngineOptions, options: SGLangOptions, environment: dict[str, str]) -> Server:
        """Start it; it answers minutes later. OSError where the command is not there."""
        folder = log_folder()
        folder.mkdir(mode=0o700, exist_ok=True)
        old = sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
        for log in old[: max(0, len(old) - KEPT_LOGS + 1)]:
            log.unlink(missing_ok=True)
            log.with_suffix(".yaml").unlink(missing_ok=True)
        # Free at the moment: the server takes a number, not a socket. Where another takes it first, the server ends and
        # its replica is replaced.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        name = f"{options.mode.value.lower()}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-{port}"
        plan = launch(engine, options, port, folder / f"{name}.yaml")
        if plan.algorithm is not None:
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(plan.algorithm, sort_keys=False), encoding="utf-8")
        log = folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                plan.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=0,
                preexec_fn=die_with_parent,
            )
        return cls(process, f"http://127.0.0.1:{port}", log)

    @property
    def ended(self) -> str:
        """How it ended, in words; empty while it runs."""
        code = self.process.poll()
        if code is None:
            return ""
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return f"the SGLang server ended {how}: {self.last_words()}"

    def last_words(self) -> str:
        """The end of its log, and where the rest is."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
            if lines:
                return f"{lines[-1].strip()[:_SHOWN]} (log: {self.log})"
        return f"it wrote nothing (log: {self.log})"

    def stop(self, grace_s: float) -> None:
        """End it with all processes it has started; blocks for `grace_s` seconds at most, then kills."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
