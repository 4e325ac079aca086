"""Where the routers are, and what all of them answered at one moment.

Pure: frozen values, and how addresses are read from EndpointSlices. The requests are in `routers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trimode_api.fleet import FleetView

PORT_NAME = "internal"


@dataclass(frozen=True, slots=True)
class Address:
    """A router's internal port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Fleets:
    """What the routers said: views of those that answered, failures of the others."""

    views: Mapping[Address, FleetView]
    failures: Mapping[Address, str]

    @property
    def asked(self) -> int:
        return len(self.views) + len(self.failures)


NO_FLEETS = Fleets({}, {})


def addresses(slices: Iterable[Mapping[str, Any]]) -> tuple[Address, ...]:
    """From the EndpointSlices of the routers' headless Service; those that are not ready, or end, count too. One pod
    may be in two of them for a moment."""
    found: set[Address] = set()
    for each in slices:
        ports = [port["port"] for port in each.get("ports") or [] if port.get("name") == PORT_NAME]
        hosts = [host for endpoint in each.get("endpoints") or [] for host in endpoint["addresses"]]
        found |= {Address(host, port) for host in hosts for port in ports}
    return tuple(sorted(found, key=str))
