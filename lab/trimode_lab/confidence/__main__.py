"""`python -m trimode_lab.confidence --case DRAFTS docs/profile.yaml --case DRAFTS H200`: recorded drafts replayed.

Tokens per second by requests at once, where verify lengths, block lengths or both are chosen for each request, against
the best fixed point and the policy. Seconds are a profile's or a prior's. Prints Markdown, draws a picture.
"""

from __future__ import annotations

import argparse
import sys
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from trimode_api.modes import AR, speculation
from trimode_lab.confidence.drafts import Answer, read
from trimode_lab.confidence.lengths import Forward
from trimode_lab.confidence.replay import Adaptive, Blocks, ByHistory, Fixed, Replay, Verify
from trimode_policy.profiles import PROFILES
from trimode_policy.roofline import ModelShape, Roofline
from trimode_tools.charts import COLOURS, FAINT, INK, figure, label, powers_of_two
from trimode_tools.simulate.hardware import assembled, shape_of
from trimode_tools.simulate.profile_file import read_profile
from trimode_tools.simulator.cost_model import Hardware
from trimode_tools.tables import markdown

LENGTHS = (4, 8, 16, 32)
LOADS = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = {"cpu": 75.0, "gpu": 500.0}
"""Cached tokens of each request."""
SETTLE_S, SETTLE_TOKENS = 5.0, 2000
"""How long the policy, and what learns acceptance, run before they are counted."""
BASE = "best point"
DRAWN = {
    "policy": FAINT,
    "S4 too": COLOURS["S32"],
    "verify by confidence": COLOURS["S16"],
    "acceptance known": COLOURS["AR"],
    "block by request": COLOURS["S8"],
    "both by request": INK,
}

Way = tuple[Callable[[], Blocks], Verify]


def measured(hardware: Hardware, context: float) -> Forward:
    """A forward's seconds from those of cycles: AR's is one, a speculating one two of equal length.

    Between lengths that were measured, 1 and 8 to 32 tokens of each request, linear in tokens.
    """
    known = (1, 8, 16, 32)

    @cache
    def at(rows: int, length: int) -> float:
        point = AR if length == 1 else speculation(length)
        return hardware.seconds(point, rows, context) / point.forwards_per_cycle

    @cache
    def forward(rows: int, tokens: int) -> float:
        each = tokens / rows
        place = min(max(1, bisect_left(known, each)), len(known) - 1)
        low, high = known[place - 1], known[place]
        share = (each - low) / (high - low)
        return (1 - share) * at(rows, low) + share * at(rows, high)

    return forward


def expected_by(roofline: Roofline, context: float) -> Forward:
    """The same from a prior."""
    return cache(lambda rows, tokens: roofline.bound_seconds(roofline.read_seconds(rows, context), tokens))


def machine(name: str) -> tuple[Forward, Roofline, float]:
    """Of a profile's file or a device: a forward's seconds, the prior, cached tokens of each request."""
    if name in PROFILES:
        prior, context = PROFILES[name].roofline(ModelShape(**shape_of("8b").model_dump())), CONTEXTS["gpu"]
        return expected_by(prior, context), prior, context
    found, context = assembled(read_profile(Path(name)), shape_of("tiny")), CONTEXTS["cpu"]
    return measured(found.truth, context), found.prior, context


def families(forward: Forward, prior: Roofline, context: float) -> dict[str, list[Way]]:
    """Ways to choose by name; of each family the one that is best at a load counts."""

    def fixed(verify: Verify, *blocks: int) -> list[Way]:
        return [(lambda block=block: Fixed(block), verify) for block in blocks]  # type: ignore[misc]

    def policy(*blocks: int) -> list[Way]:
        return [(lambda: Adaptive.of(blocks, prior, context), Verify.WHOLE)]

    def by_request(verify: Verify) -> list[Way]:
        return [(lambda: ByHistory(LENGTHS, forward), verify)]

    every = (1, *LENGTHS)
    return {
        BASE: fixed(Verify.WHOLE, 1, *LENGTHS[1:]),
        "policy": policy(*LENGTHS[1:]),
        "S4 too": fixed(Verify.WHOLE, *every),
        "policy, S4 too": policy(*LENGTHS),
        "to a drafted end": fixed(Verify.TO_END, *every),
        "one verify length": fixed(Verify.COMMON, *every),
        "verify by confidence": fixed(Verify.CONFIDENCE, *every),
        "acceptance known": fixed(Verify.KNOWN, *every),
        "block by request": by_request(Verify.WHOLE),
        "both by request": by_request(Verify.CONFIDENCE),
    }


def speed(answers: Sequence[Answer], rows: int, way: Way, forward: Forward, tokens: int) -> float:
    """Tokens per second."""
    run = Replay(answers, rows, way[0](), way[1], forward)
    if isinstance(run.blocks, Adaptive):
        run.run(0, SETTLE_S)
    run.run(SETTLE_TOKENS)
    done = run.run(tokens)
    return done.tokens / done.seconds


def table(found: Mapping[int, Mapping[str, float]]) -> str:
    """Tokens per second of the best fixed point, and what the others have more than it."""
    names = list(next(iter(found.values())))
    lines = []
    for load, speeds in found.items():
        base = speeds[BASE]
        others = (f"{100 * (speeds[name] / base - 1):+.1f} %" for name in names[1:])
        lines.append((str(load), f"{base:,.0f}", *others))
    return markdown(("requests", f"{BASE}, tokens/s", *names[1:]), lines)


def draw(every: Mapping[str, Mapping[int, Mapping[str, float]]], file: Path) -> None:
    """A panel for each machine and file of drafts: gain over the best fixed point by requests at once."""
    with figure(file, (4.6 * len(every), 4.2), ncols=len(every), sharey=True) as panels:
        for axis, (title, found) in zip(panels, every.items(), strict=True):
            for name, colour in DRAWN.items():
                gains = [100 * (speeds[name] / speeds[BASE] - 1) for speeds in found.values()]
                axis.plot(list(found), gains, color=colour, label=name, marker="o", markersize=3.5)
            label(axis, title, "requests at once", "% more tokens/s than the best fixed point")
            powers_of_two(axis, list(found))
        panels[0].legend()


def main() -> None:
    parser = argparse.ArgumentParser(description="What choosing lengths by confidence would give.")
    parser.add_argument(
        "--case",
        nargs=2,
        action="append",
        required=True,
        metavar=("DRAFTS", "SECONDS"),
        help="a file of trimode_lab.confidence.record; a profile's file, or H200 and the like",
    )
    parser.add_argument("--tokens", type=int, default=10_000, help="of each run")
    parser.add_argument("--out", type=Path, help="the picture")
    args = parser.parse_args()
    every = {}
    for drafts, seconds in args.case:
        answers, (forward, prior, context) = read(Path(drafts)), machine(seconds)
        ways = families(forward, prior, context)
        title, found = f"{Path(drafts).stem} on {Path(seconds).stem}", dict[int, dict[str, float]]()
        for rows in LOADS:
            found[rows] = {
                name: max(speed(answers, rows, way, forward, args.tokens) for way in members)
                for name, members in ways.items()
            }
        every[title] = found
        sys.stdout.write(f"{title}\n{table(found)}\n")
        sys.stdout.flush()
    if args.out is not None:
        draw(every, args.out)


if __name__ == "__main__":
    main()
