"""Properties run the same cases each time, so that a red run can be repeated; `TRIMODE_PROPERTIES=thorough` looks for
new ones in tests/policy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
