"""Where the routers are, and what all of them said at one moment.

Belongs here: frozen values and how they are read from Endpoints, pure. Asking is `routers`' work.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def addresses(endpoints: Mapping[str, Any] | None) -> tuple[Address, ...]:
    """From the Endpoints of the routers' headless Service; those that are not ready count too."""
    found: list[Address] = []
    for subset in (endpoints or {}).get("subsets") or []:
        ports = [port["port"] for port in subset.get("ports") or [] if port.get("name") == PORT_NAME]
        hosts = [*(subset.get("addresses") or []), *(subset.get("notReadyAddresses") or [])]
        found += [Address(host["ip"], port) for host in hosts for port in ports]
    return tuple(sorted(set(found), key=str))
