"""Results as they come: one line on the screen for each, and all of them in one JSON file.

Belongs here: writing, and the time limit. What is measured is in `measures`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement: `values` by name, units in the names."""

    section: str
    case: str
    values: dict[str, Value]


@dataclass
class Report:
    """Collects results until `limit_s` seconds after its start. The file is whole after every one of them."""

    path: Path
    limit_s: float
    clock: Callable[[], float] = time.monotonic
    results: list[Result] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._lock = threading.Lock()
        self._write()

    @property
    def left_s(self) -> float:
        """Seconds until the limit."""
        return self.limit_s - (self.clock() - self._began)

    def take(self, section: str, results: Iterator[Result]) -> None:
        """Run a section's measurements, as far as time allows. One that fails ends its section, and says so."""
        try:
            while True:
                if self.left_s <= 0:
                    self._skip(section, "no time left")
                    return
                result = next(results, None)
                if result is None:
                    return
                with self._lock:
                    self.results.append(result)
                self._write()
                sys.stdout.write(line(result) + "\n")
                sys.stdout.flush()
        except Exception as exc:  # noqa: BLE001 - the other sections of a device's first run still have to show theirs
            self._skip(section, f"{type(exc).__name__}: {str(exc)[:300]}")

    def end_at_limit(self, grace_s: float = 20.0) -> None:
        """End the process `grace_s` seconds after the limit: a kernel that hangs cannot be interrupted otherwise."""

        def end() -> None:
            self._skip("everything else", "the limit has passed while a measurement was running")
            os._exit(3)

        timer = threading.Timer(self.left_s + grace_s, end)
        timer.daemon = True
        timer.start()

    def _skip(self, section: str, reason: str) -> None:
        with self._lock:
            self.skipped.append(f"{section}: {reason}")
        self._write()
        sys.stdout.write(f"{section:10} NOT MEASURED: {reason}\n")
        sys.stdout.flush()

    def _write(self) -> None:
        with self._lock:
            content = {
                "seconds": round(self.clock() - self._began, 1),
                "skipped": self.skipped,
                "results": [asdict(result) for result in self.results],
            }
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            partial.replace(self.path)


def line(result: Result) -> str:
    """The result as a row of the table."""
    shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in result.values.items()}
    values = "  ".join(f"{name} {value}" for name, value in shown.items())
    return f"{result.section:10} {result.case:24} {values}"
