"""What each of Ray's worker processes does first.

Belongs here: one function, run on import, because Ray's workers import the modules they are told to. Every Serve
replica opens a port for calls between deployments, on all interfaces and without a password, although nobody calls
it here: keep it on the loopback.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def loopback_only() -> None:
    """Bind gRPC ports that are meant for all interfaces to 127.0.0.1."""
    tls_utils: Any = import_module("ray._common.tls_utils")
    original = tls_utils.add_port_to_grpc_server

    def bind(server: Any, address: str) -> Any:
        return original(server, address.replace("[::]:", "127.0.0.1:").replace("0.0.0.0:", "127.0.0.1:"))

    tls_utils.add_port_to_grpc_server = bind


loopback_only()
