"""huggingface_hub's progress bars, turned off: progress is told by `Progress` alone."""

from __future__ import annotations

from typing import Any

from huggingface_hub.utils.tqdm import tqdm


class Silent(tqdm):
    """A bar that draws nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["disable"] = True
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
