"""The endpoint that `up` and `router` open: where it listens, who may ask, and its certificate.

Belongs here: the options about it, and what must hold of them before anything is started.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimode_api.wire import ORIGIN
from trimode_local.errors import BadInput

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Entry:
    """As given on the command line; files are named, empty where there are none."""

    host: str
    port: int
    keys: str = ""
    certificate: str = ""
    certificate_key: str = ""
    anyone: bool = False
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host in _LOOPBACK

    def check(self) -> None:
        """Raises BadInput where a file can not be used, or the network could ask without being meant to."""
        from trimode_router.access import access, certificate

        if not self.keys and not self.anyone and not self.on_loopback:
            raise BadInput(
                f"--host {self.host} is reachable from the network: give --keys FILE, or --anyone if that is meant"
            )
        for origin in self.cors_origins:
            if not re.match(ORIGIN, origin):
                raise BadInput(f"--cors-origin {origin!r} must be SCHEME://HOST:PORT without a path, or *")
        if self.certificate_key and not self.certificate:
            raise BadInput("--tls-key goes with --tls-certificate FILE")
        try:
            if self.keys:
                access.read(Path(self.keys))
            if self.certificate:
                certificate.read(Path(self.certificate), Path(self.certificate_key or self.certificate))
        except access.AccessError as error:
            raise BadInput(f"--keys {error}", "docs/router.md says how such a file is made.") from error
        except certificate.CertificateError as error:
            raise BadInput(f"--tls-certificate {error}") from error

    def fields(self) -> dict[str, Any]:
        """Its part of a RouterConfig."""
        return {
            "host": self.host,
            "port": self.port,
            "keys_file": _absolute(self.keys),
            "tls_certificate": _absolute(self.certificate),
            "tls_key": _absolute(self.certificate_key),
            "allowed_hosts": self.allowed_hosts,
            # The resource may name some, too; those of the command line take their place.
            **({"cors_origins": self.cors_origins} if self.cors_origins else {}),
        }


def _absolute(file: str) -> str:
    return str(Path(file).absolute()) if file else ""
