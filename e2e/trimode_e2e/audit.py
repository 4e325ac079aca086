"""What one account asks of the API server, by the server's own audit log.

Belongs here: reading the log's lines, and counting them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the log. `pod` is the one whose token it was asked with, where it was a pod's."""

    pod: str
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    uri: str
    code: int
    allowed: bool
    at: str
    stage: str

    @property
    def writes(self) -> bool:
        return self.verb in WRITES


@dataclass(frozen=True, slots=True)
class Audit:
    """The lines of one account in a server's log."""

    log: Path
    account: str

    def requests(self) -> list[Request]:
        """All until now, discovery left out; earlier files of the log included."""
        return [request for line in self._lines() if (request := _request(json.loads(line))).resource]

    def position(self) -> int:
        """Where the log ends now."""
        return self.log.stat().st_size

    def after(self, position: int) -> list[Request]:
        """Those that were written after that position, discovery included."""
        with self.log.open() as lines:
            lines.seek(position)
            return [_request(json.loads(line)) for line in lines if self._is_mine(line)]

    def _lines(self) -> Iterator[str]:
        for file in sorted(self.log.parent.glob(f"{self.log.stem}*{self.log.suffix}")):
            with file.open() as lines:
                yield from filter(self._is_mine, lines)

    def _is_mine(self, line: str) -> bool:
        return f'"username":"{self.account}"' in line and line.endswith("\n")


def calls(requests: Sequence[Request]) -> Counter[str]:
    """How many of each sort, such as `leases update` or `discovery get`.

    A watch is one call when it begins: it stays for minutes, and has a second line when it ends.
    """
    begun = [each for each in requests if (each.verb == "watch") == (each.stage == "ResponseStarted")]
    words = ((each.resource or "discovery", each.subresource, each.verb) for each in begun)
    return Counter(" ".join(filter(None, each)) for each in words)


def _request(line: dict[str, Any]) -> Request:
    thing, notes = line.get("objectRef") or {}, line.get("annotations") or {}
    pods = (line["user"].get("extra") or {}).get("authentication.kubernetes.io/pod-name") or [""]
    return Request(
        pod=pods[0],
        verb=line["verb"],
        resource=thing.get("resource", ""),
        subresource=thing.get("subresource", ""),
        namespace=thing.get("namespace", ""),
        name=thing.get("name", ""),
        uri=line["requestURI"],
        code=(line.get("responseStatus") or {}).get("code", 0),
        allowed=notes.get("authorization.k8s.io/decision") != "forbid",
        at=line["requestReceivedTimestamp"],
        stage=line["stage"],
    )
