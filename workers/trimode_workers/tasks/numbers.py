"""Addition of two- and three-digit numbers, written out place by place."""

from random import Random

from trimode_workers.tasks.sample import Sample

_PLACES = ("ones", "tens", "hundreds")


def add(rng: Random) -> Sample:
    digits = rng.choice((2, 3))
    low, high = 10 ** (digits - 1), 10**digits - 1
    a, b = rng.randint(low, high), rng.randint(low, high)
    lines, carry = [], 0
    for place, x, y in zip(_PLACES, str(a)[::-1], str(b)[::-1], strict=False):
        total = int(x) + int(y) + carry
        lines.append(f"{place}: {x}+{y}+{carry}={total}")
        carry = total // 10
    return Sample("add", f"add {a} and {b}", "\n".join([*lines, f"sum: {a + b}"]))
