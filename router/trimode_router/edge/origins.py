"""What a browser may do here: CORS for the pages that the operator names, and the check of Host. [pure]

A page whose own name is made to point to 127.0.0.1 (DNS rebinding) is of the same origin to the browser; only
Host tells.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from trimode_api.errors import ApiError, shown

ANY = "*"
_OURS = (".localhost", ".local", ".internal", ".lan", ".home.arpa")
"""Ends of names that no public server can answer for. `host.docker.internal` is how containers call this machine."""
_REMEMBERED = 256
_AGE = b"600"
_EXPOSED = b"x-request-id, retry-after"
_PLAIN = re.compile(rb"[A-Za-z0-9, _-]*")


class Origins:
    """Pages of `allowed` origins (`https://app.example`, or `*` for any) may use the endpoint."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._any = ANY in allowed
        self._allowed = frozenset(origin.encode() for origin in allowed)

    def lines(self, origin: bytes) -> bytes:
        """What every answer to a page of `origin` says; none for a page that is not let in."""
        if self._any:
            return b"access-control-allow-origin: *\r\naccess-control-expose-headers: %b\r\n" % _EXPOSED
        if origin not in self._allowed:
            return b"vary: origin\r\n" if self._allowed else b""
        allow = b"access-control-allow-origin: %b\r\nvary: origin\r\n" % origin
        return allow + b"access-control-expose-headers: %b\r\n" % _EXPOSED

    def lets(self, origin: bytes) -> bool:
        return self._any or origin in self._allowed


def preflight(methods: str, wanted: bytes) -> list[tuple[bytes, bytes]]:
    """Fields of the answer to a browser that asks beforehand; `wanted`: names of fields that it would send."""
    fields = [(b"access-control-allow-methods", methods.encode()), (b"access-control-max-age", _AGE)]
    if wanted and _PLAIN.fullmatch(wanted):
        fields.append((b"access-control-allow-headers", wanted))
    return fields


class Hosts:
    """Whether a Host is a name of this machine: an address, a name without a dot, or one of `allowed` (`*`: any)."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._any = ANY in allowed
        self._names = {name.lower() for name in allowed}
        self._known: set[bytes] = set()

    def check(self, host: bytes) -> None:
        """Raises ApiError (403) for a name that is not known here."""
        if host in self._known or self._any:
            return
        name = host.decode("latin-1").lower()
        # Without its port, brackets, and the dot of a full name.
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0].removesuffix(".")
        try:
            ipaddress.ip_address(name)
            ours = True  # an address is asked of no name server
        except ValueError:
            # No dot: none at all (HTTP/1.0), `localhost`, names of containers. No public name is without one.
            bare = "." not in name and ":" not in name
            ours = bare or name in self._names or name.endswith(_OURS)
        if not ours:
            message = f"Host: {shown(name)} is no name of this machine, and only this machine is served without keys; "
            raise ApiError(403, message + "allow it by allowedHosts (--allowed-host)", code="unknown_host")
        if len(self._known) < _REMEMBERED:
            self._known.add(host)
