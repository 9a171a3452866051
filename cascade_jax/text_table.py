"""Tables for people: one value, rendered as text for a terminal, as Markdown or as HTML."""

import dataclasses
import html
import math
import re
from collections.abc import Callable, Collection, Sequence

NOT_MEASURED = "–"
# Line breaks and other control characters, and marks that turn the direction of what follows.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
# What Markdown would read as markup: bars, escapes, code, emphasis, tags, entities, links.
_MARKUP = re.compile(r"[|\\`*~]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<=\])\(|(?<![^\W_])_|_(?![^\W_])")


def number(value: float, signed: bool = False) -> str:
    """Three decimals; "–" where not measured (NaN), "∞" where unbounded."""
    if math.isnan(value):
        return NOT_MEASURED
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text if signed or text != "-0.000" else "0.000"


def signed(value: float) -> str:
    """`number` with its sign."""
    return number(value, signed=True)


def percent(share: float) -> str:
    """A share in per cent with three digits, e.g. ``31.4 %``, that no line break parts."""
    return NOT_MEASURED if math.isnan(share) else f"{100 * share:.3g}\N{NO-BREAK SPACE}%"


def one_line(text: str) -> str:
    """Text without line breaks and control characters; a space stands for them."""
    return _CONTROL.sub(" ", text)


def markdown_text(text: str) -> str:
    """Text on one line that Markdown shows as it is: what it would take for markup is escaped.

    Example: "a|b" gives "a\\|b"; "cat_dist" stays, as an underscore within a word is none.
    """
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value and what is shown beside it."""

    value: float | str  # NaN = not measured; a text is shown as it is
    low: float = math.nan  # ends of its interval; NaN = none
    high: float = math.nan
    note: str = ""  # such as a p-value
    is_best: bool = False  # HTML shows it in bold


@dataclasses.dataclass(frozen=True)
class Column:
    """Cells below a head."""

    head: str  # with the unit, if there is one
    cells: Sequence[Cell | float | str]  # values that have nothing beside them may stand alone
    show: Callable[[float], str] = number  # or `signed`, `percent`, or a cost in its unit

    @property
    def is_text(self) -> bool:
        """Whether it has no numbers, so that its cells stand to the left."""
        return all(isinstance(cell.value, str) for cell in self)

    def __iter__(self):
        return (cell if isinstance(cell, Cell) else Cell(cell) for cell in self.cells)

    def plain(self, head: str = "") -> "Column":
        """The same without intervals and notes, under another head if one is given."""
        cells = [cell.value for cell in self]
        return dataclasses.replace(self, head=head or self.head, cells=cells)

    def parts(self, cell: Cell) -> tuple[str, tuple[str, ...]]:
        """A cell's value, and the two ends of its interval if it has one."""
        if isinstance(cell.value, str):
            return cell.value, ()
        if math.isnan(cell.value):
            return NOT_MEASURED, ()
        has_interval = not (math.isnan(cell.low) or math.isnan(cell.high))
        return self.show(cell.value), (self.show(cell.low), self.show(cell.high)) * has_interval

    def texts(self) -> list[str]:
        """The cells as ``0.622 [0.601, 0.642], note``."""
        result = []
        for cell in self:
            value, ends = self.parts(cell)
            interval = f" [{', '.join(ends)}]" if ends else ""
            result.append(value + interval + f", {cell.note}" * bool(cell.note))
        return result


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, column by column; the first column names the rows."""

    title: str
    columns: Sequence[Column]

    @property
    def has_rows(self) -> bool:
        """Whether there is anything below the heads."""
        return any(len(column.cells) > 0 for column in self.columns)

    @property
    def texts(self) -> list[list[str]]:
        """The heads and then every row, as texts of one line."""
        heads = [column.head for column in self.columns]
        rows = [heads, *zip(*(column.texts() for column in self.columns), strict=True)]
        return [list(map(one_line, row)) for row in rows]


def columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Lines with aligned columns; those numbered in `right` end at one place.

    Example: ``columns([["a", "1"], ["bc", "10"]], right=[1])`` is ``["a    1", "bc  10"]``.
    """
    aligned = []
    for i, column in enumerate(zip(*rows, strict=True)):
        align, width = str.rjust if i in right else str.ljust, max(map(len, column))
        aligned.append([align(cell, width) for cell in column])
    return ["  ".join(cells).rstrip() for cells in zip(*aligned, strict=True)]


def as_text(table: Table, *, rule: bool = False) -> str:
    """Aligned columns for a terminal, numbers to the right; with `rule`, a line below the heads."""
    right = [i for i, column in enumerate(table.columns) if not column.is_text]
    lines = columns(table.texts, right)
    if rule:
        lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([f"{one_line(table.title)}:"] * bool(table.title) + lines)


def as_markdown(table: Table) -> str:
    """A Markdown table, below its title as a sentence."""
    rows = [list(map(markdown_text, row)) for row in table.texts]
    rows.insert(1, ["---"] * len(table.columns))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"{markdown_text(table.title)}:\n"] * bool(table.title) + lines)


def as_html(table: Table, css: str = "") -> str:
    """A table with its title as caption, that scrolls sideways by itself where it is too wide."""
    heads = "".join(f'<th scope="col">{html.escape(column.head)}</th>' for column in table.columns)
    cells = [[_html_cell(column, cell, i == 0) for cell in column]
             for i, column in enumerate(table.columns)]  # fmt: skip
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in zip(*cells, strict=True))
    title = html.escape(table.title)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{title}">'
        f'<table class="{css}"><caption>{title}</caption><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _html_cell(column: Column, cell: Cell, is_head: bool) -> str:
    value, ends = column.parts(cell)
    below = [" to ".join(ends)] * bool(ends) + [cell.note] * bool(cell.note)
    text = html.escape(value) + "".join(f"<small>{html.escape(line)}</small>" for line in below)
    if is_head:
        return f'<th scope="row">{text}</th>'
    return f"<td{' class=best' * cell.is_best}>{text}</td>"
