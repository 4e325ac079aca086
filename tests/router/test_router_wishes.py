"""Router and replica judge a wish alike: what the router sends to a replica, the replica can do."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimode_api.errors import ApiError
from trimode_api.modes import AR, Mode, OperatingPoint, Wish, diffusion, quadratic, resolve, speculation
from trimode_api.openai import CompletionRequest
from trimode_api.stamp import Stamp
from trimode_policy.route import RequestView, may_serve
from trimode_router.request.parse import TEXT_PATH
from trimode_router.request.parse import parse as asked
from trimode_workers.engine.messages import Configure, Submit
from trimode_workers.engine.points import Points
from trimode_workers.engine.validate import check
from trimode_workers.errors import RequestRefused
from trimode_workers.openai.defaults import SamplingDefaults
from trimode_workers.openai.parse import parse
from trimode_workers.openai.prepare import Capabilities, Identity, prepare

EVERY = (
    AR,
    speculation(8),
    speculation(16),
    speculation(16, 0.9),
    quadratic(8),
    diffusion(16, 0.9),
    diffusion(32, 0.9),
)
LENGTHS = st.sampled_from((4, 8, 16, 32))
pools = st.lists(st.sampled_from(EVERY), min_size=1, max_size=4, unique=True).map(tuple)
dials = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from([mode.value for mode in Mode]),
        "blockLength": st.none() | LENGTHS,
        "threshold": st.sampled_from((None, 0.5, 0.9)),
        "quality": st.sampled_from((None, "lossless", "lossy-ok")),
    },
)
qualities = st.sampled_from((None, "lossless", "lossy-ok"))
TEXT: Any = SimpleNamespace(vocabulary=10)


def replica(body: bytes, points: tuple[OperatingPoint, ...]) -> Submit:
    """What the replica makes of it, text layer and engine. ApiError or RequestRefused where it will not."""
    offer = Capabilities("m", 64, points, (), SamplingDefaults())
    submit = prepare(parse(CompletionRequest, body), TEXT, offer, Identity("id", "new", 0, Stamp(0, 0.01)))
    names = [str(point) for point in points]
    check(submit, Points.parse(Configure(points=names, fallback=names[0])), 64, 10, frozenset())
    return submit


@given(dials, qualities, st.lists(pools, min_size=1, max_size=3))
def test_a_replica_does_what_a_router_may_send_it_and_nothing_else(
    dial: dict[str, Any], quality: str | None, fleet: list[tuple[OperatingPoint, ...]]
) -> None:
    body = json.dumps({"model": "m", "prompt": [1, 2], "trimode": dial, "quality": quality}).encode()
    every = tuple(dict.fromkeys(point for points in fleet for point in points))
    try:
        wanted = asked(TEXT_PATH, body, every)
    except ApiError:
        for points in fleet:
            with pytest.raises((ApiError, RequestRefused)):
                replica(body, points)
        return
    view = RequestView(lossy_ok=wanted.lossy_ok, pin=wanted.pin)
    contradictory = quality is not None and dial.get("quality") not in (None, quality)  # the replica's to refuse
    for points in fleet:
        if contradictory or not may_serve(view, points):
            with pytest.raises((ApiError, RequestRefused)):
                replica(body, points)
            continue
        submit = replica(body, points)
        assert submit.lossy_ok == wanted.lossy_ok
        assert submit.pin == (None if wanted.pin is None else str(resolve(wanted.pin, points)))


@given(pools, st.sampled_from(tuple(Mode)), st.none() | LENGTHS, st.randoms())
def test_a_wish_means_the_longest_point_that_fits_in_whatever_order(
    points: tuple[OperatingPoint, ...], mode: Mode, length: int | None, random: Any
) -> None:
    wish = Wish(mode, length)
    found = resolve(wish, points)
    shuffled = list(points)
    random.shuffle(shuffled)
    assert resolve(wish, shuffled) == found
    fitting = [point for point in points if wish.fits(point)]
    assert (found is None) == (not fitting)
    assert all(point.block_length <= found.block_length for point in fitting if found is not None)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(Mode.AR), "AR"),
        (Wish(Mode.SELF_SPECULATION, 8), "SelfSpeculation with blockLength 8"),
        (Wish(Mode.DIFFUSION, 32, 0.9), "Diffusion with blockLength 32 and threshold 0.9"),
    ],
)
def test_a_wish_is_said_as_a_request_writes_it(wish: Wish, words: str) -> None:
    assert str(wish) == words
