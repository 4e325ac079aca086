"""Addresses that play pods' ones: on this machine only, and not in 127.0.0.0/8, which Endpoints may not name.

Belongs here: `ip address` on the loopback device. It needs the right to administer the network: root, or a network
namespace of one's own (`unshare --map-root-user --net`).
"""

from __future__ import annotations

import itertools
import secrets
import shutil
import subprocess

from trimode_e2e.errors import Missing

_FIRST, _LAST = 1, 254


class Addresses:
    """Gives addresses out. `close` takes all of them off the device again."""

    def __init__(self) -> None:
        # Out of 198.18.0.0/15, which is set aside for tests of networks; another run beside this one has another part.
        self._network = f"198.{18 + secrets.randbelow(2)}.{secrets.randbelow(256)}."
        self._numbers = itertools.cycle(range(_FIRST, _LAST + 1))
        self._given: set[str] = set()

    def take(self) -> str:
        """A fresh address, not one that was given back just now. Raises Missing where it may not be added."""
        every = (f"{self._network}{number}" for number in self._numbers)
        address = next(each for each in every if each not in self._given)
        _ip("add", address)
        self._given.add(address)
        return address

    def give_back(self, address: str) -> None:
        self._given.discard(address)
        _ip("del", address)

    def close(self) -> None:
        for address in tuple(self._given):
            self.give_back(address)


def _ip(verb: str, address: str) -> None:
    if shutil.which("ip") is None:
        raise Missing("pods need addresses of their own: install iproute2 (`ip`)")
    command = ["ip", "address", "replace" if verb == "add" else verb, f"{address}/32", "dev", "lo"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and verb == "add":
        raise Missing(
            f"pods need addresses of their own, and `{' '.join(command)}` says: {done.stderr.strip()}; run as root, or "
            "within `unshare --map-root-user --net sh -c 'ip link set lo up && make cluster-test'`"
        )
