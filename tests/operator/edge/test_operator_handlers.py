"""kopf's part: every kind is watched by one handler that waits for nothing, and kopf itself writes nothing."""

from __future__ import annotations

import inspect
from typing import Any

import kopf
import pytest

from trimode_operator.kube.cache import Cache, Key
from trimode_operator.kube.watch import CHILDREN, OURS, operator_settings, registry


def resource(version: int) -> dict[str, Any]:
    metadata = {"name": "nemo", "namespace": "default", "uid": "u", "resourceVersion": str(version)}
    return {"kind": "NemotronDeployment", "metadata": metadata}


class Ears:
    """A registry with what it told."""

    def __init__(self) -> None:
        self.changed: list[Key] = []
        self.events = 0
        self.cache = Cache()
        self.registry = registry(self.cache, self.changed.append, self._seen)
        self.handlers = self.registry._watching.get_all_handlers()

    def _seen(self) -> None:
        self.events += 1

    async def tell(self, kind: str | None, body: dict[str, Any]) -> None:
        await self.handlers[0].fn(event={"type": kind, "object": body}, extra="ignored")  # type: ignore[call-arg]


def test_all_kinds_are_watched_and_nothing_is_stored_in_resources() -> None:
    ears = Ears()
    assert len(ears.handlers) == 1 + len(CHILDREN)
    assert not ears.registry._changing.get_all_handlers()  # these would write annotations and finalizers
    assert all(inspect.iscoroutinefunction(handler.fn) for handler in ears.handlers)  # others would run in threads
    assert not ears.registry._spawning.get_all_handlers()


@pytest.mark.parametrize("kind", [None, "ADDED", "MODIFIED"])
async def test_news_are_taken_in_and_lead_to_a_visit(kind: str | None) -> None:
    ears = Ears()
    await ears.tell(kind, resource(1))
    assert ears.changed == [Key("default", "nemo")]
    await ears.tell(kind, resource(1))  # our own write, told again
    assert ears.changed == [Key("default", "nemo")]
    assert ears.events == 2


async def test_an_end_is_news() -> None:
    ears = Ears()
    await ears.tell("ADDED", resource(1))
    await ears.tell("DELETED", resource(2))
    assert len(ears.changed) == 2
    assert ears.cache.resources() == ()


def test_settings() -> None:
    settings = operator_settings(namespaced=False)
    assert settings.watching.inactivity_timeout == 70.0
    assert isinstance(settings.persistence.progress_storage, kopf.AnnotationsProgressStorage)
    assert settings.persistence.finalizer.startswith("trimode.dev/")
    assert not settings.posting.enabled
    assert settings.peering.standalone
    assert not settings.scanning.disabled
    assert operator_settings(namespaced=True).scanning.disabled
    assert set(settings.watching.label_selectors.values()) == {OURS}
    assert len(settings.watching.label_selectors) == len(CHILDREN)


def test_an_api_server_that_is_away_is_asked_again_without_end() -> None:
    waits = iter(operator_settings(namespaced=False).networking.error_backoffs)  # type: ignore[arg-type]
    assert [next(waits) for _ in range(1000)][-1] == 3.0
