"""Which GPUs an engine sees: those that its replica's actor has reserved."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from trimode_workers.replica.replica import _engine_environment


@pytest.mark.filterwarnings("ignore")  # Ray's own imports are full of them
@pytest.mark.parametrize(("reserved", "seen"), [([], ""), (["1"], "0,1"), (["0"], "0,1")])
def test_a_replica_without_gpus_sees_none(reserved: list[str], seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where some are reserved, what Ray has set stays."""
    app = pytest.importorskip("trimode_workers.app", reason="NO RAY: pip install 'trimode[workers]'")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    context = SimpleNamespace(get_accelerator_ids=lambda: {"GPU": reserved, "TPU": []})
    monkeypatch.setattr(app.ray, "get_runtime_context", lambda: context)
    app.hide_unreserved_gpus()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen
    assert _engine_environment(1)["CUDA_VISIBLE_DEVICES"] == seen
