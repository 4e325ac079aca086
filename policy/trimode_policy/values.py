"""Values that are made for every request.

Belongs here: how such a class is declared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A frozen dataclass with slots, as far as the type checker goes; at run time assignments are not refused."""
    # The `__init__` of a frozen dataclass goes through `object.__setattr__` and takes three times as long; views and
    # requests are made for every request of a router.
    return dataclass(slots=True, unsafe_hash=True)(cls)
