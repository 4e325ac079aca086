"""`trimode profile`: measure an engine, write FILE and its picture, show a table.

Belongs here: the command's course and its output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from trimode_local import console
from trimode_local.errors import BadInput
from trimode_tools.profile.engine_under_test import Options, points_of, start
from trimode_tools.profile.measure import QUICK, Budget, Plan, Progress, powers_to, profile_of, with_ar
from trimode_tools.profile.plot import draw
from trimode_tools.profile.rounds import compared, measure
from trimode_tools.profile.table import cycles_table, sentences, validation_table
from trimode_tools.profile.validate import Comparison
from trimode_tools.simulate.hardware import assembled, shape_of
from trimode_tools.simulate.profile_file import Profile, write_profile

SHORT = 4
"""The lesser of the two contexts is this part of the greater."""


def profile(wanted: Options) -> None:
    """The whole command. Raises TrimodeError."""
    if wanted.out.is_dir() or not wanted.out.parent.is_dir():
        raise BadInput(f"--out {wanted.out}: must be a file in a folder that exists")
    points = with_ar(points_of(wanted.points))
    effort = QUICK if wanted.quick else Budget()
    subject = start(wanted, points, effort.answers)
    piece = sorted(map(len, subject.prompts))[len(subject.prompts) // 2]
    plan = Plan(points, powers_to(wanted.max_batch), (max(2, wanted.context // SHORT), wanted.context), piece, effort)
    with _progress() as told:
        taken, loops = measure(subject, plan, wanted.validate, told)
        found = profile_of(taken, subject.target, subject.tasks)
        hardware = assembled(found, shape_of(wanted.model))
        comparisons = compared(subject, plan, taken, hardware, loops)
    if comparisons:
        found = found.model_copy(update={"about": {**found.about, "validation": [_plain(c) for c in comparisons]}})
    write_profile(found, wanted.out)
    picture = wanted.out.with_suffix(".png")
    draw(found, hardware.prior, comparisons, "What a cycle costs here", _subtitle(found), picture)
    console.out.print(cycles_table(found))
    for sentence in sentences(found, hardware.prior):
        console.out.print(sentence, soft_wrap=True)
    if comparisons:
        console.out.print(validation_table(comparisons))
    console.err.print(Text(f"wrote {wanted.out} and {picture}", style="dim"), soft_wrap=True)


def _plain(comparison: Comparison) -> Mapping[str, object]:
    return {
        "clients": comparison.clients,
        "rounds": list(comparison.rounds),
        "measured": asdict(comparison.measured),
        "predicted": asdict(comparison.predicted),
    }


def _subtitle(found: Profile) -> str:
    facts = found.about["machine"]
    where = f"{facts['processor']}, {facts['cores']} cores" if found.device == "cpu" else found.name
    return f"{found.model}, {found.about['dtype']}, {where}; means of whole cycles, medians over rounds"


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal, a line for each tenth elsewhere."""
    if not console.err.is_terminal:
        said: set[int] = set()

        def say(words: str, done: int, total: int) -> None:
            tenth = 10 * done // total
            if tenth not in said:
                said.add(tenth)
                console.err.print(f"measured {done} of {total}: {words}", soft_wrap=True)

        yield say
        return
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console.err, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda words, done, total: bar.update(task, description=words, completed=done, total=total)
