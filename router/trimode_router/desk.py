"""Who places exchanges, as an exchange sees it.

Belongs here: the port between one request and all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from trimode_router.limits import Limits
from trimode_router.record import Failure

if TYPE_CHECKING:
    from trimode_router.exchange import Exchange


class Desk(Protocol):
    """Is told of each turn of an exchange."""

    limits: Limits
    passes_keys: bool
    """Whether replicas are sent the client's own key, so that it is for the client to mend."""

    def now(self) -> float: ...
    def first_byte(self, exchange: Exchange, *, well: bool) -> None:
        """The present attempt has brought something for the client; `well`: no error of the replica."""

    def resumed(self, pause_s: float) -> None:
        """A broken stream goes on."""

    def failed(self, exchange: Exchange, why: str, how: Failure) -> None: ...
    def elsewhere(self, exchange: Exchange) -> bool:
        """Whether another replica could still be tried."""

    def over(self, exchange: Exchange) -> None: ...
