"""How tables look, in a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table


def table(title: str, headings: Sequence[str], *, words: Sequence[str] = (), gap: int = 2) -> Table:
    """An empty table without a frame; columns named in `words` hold text and stand left, the others right."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for heading in headings:
        made.add_column(heading, justify="left" if heading in words else "right", no_wrap=True)
    return made


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column stands left and whose others stand right; ends with a line break."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def number(value: float | None, form: str, factor: float = 1.0) -> str:
    """`value` times `factor` in this format, a dash for None."""
    return "-" if value is None else form.format(value * factor)
