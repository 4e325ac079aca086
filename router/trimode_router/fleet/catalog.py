"""Which models requests may ask for, and which replicas have which. [pure]

Replicas of one deployment all have its one model; servers that the router merely stands before have what `/v1/models`
says: models, and adapters under names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Catalog:
    """`names` may be asked for. Of the others nothing is known while there are `unheard` servers, and a server that
    keeps its list from the router (`mute`: it wants the client's key) may have any that no other one lists."""

    names: tuple[str, ...]
    mute: frozenset[str] = frozenset()
    unheard: tuple[str, ...] = ()
    """Servers that have never answered since the start."""
    split: bool = False
    """Whether some replica lacks what another one has: else there is nothing to look up."""
    _lists: frozenset[str] = frozenset()
    _without: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of_servers(
        cls, lists: Mapping[str, tuple[str, ...]], mute: Collection[str] = (), unheard: Collection[str] = ()
    ) -> Catalog:
        """From the names that servers list, by replica id."""
        names = tuple(dict.fromkeys(name for listed in lists.values() for name in listed))
        # What is listed is asked for where it is listed: before a mute server half of the requests for it, their key
        # not being the one wanted there, would be 401.
        without = {
            name: frozenset((*(each for each, listed in lists.items() if name not in listed), *mute)) for name in names
        }
        split = bool(mute) or any(without.values())
        return cls(names, frozenset(mute), tuple(unheard), split, frozenset(lists), without)

    def without(self, model: str) -> frozenset[str]:
        """Ids of the replicas that do not have `model`."""
        return self._without.get(model, self._lists)
