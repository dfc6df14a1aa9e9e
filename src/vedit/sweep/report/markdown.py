"""Tables as Markdown, aligned so that they read as plain text too."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from vedit.sweep.report.layout import NOTHING, Entry, Sheet, mark, signless_zero
from vedit.sweep.report.results import Results


def markdown(sheet: Sheet) -> str:
    """The table, with its caption above and its notes below.

    Args:
        sheet: the table.

    Returns:
        Markdown that ends with a line break.
    """
    titles = [
        " ".join(
            part for part in (column.title, f"({column.group})" if column.group else "") if part
        )
        for column in sheet.columns
    ]
    rows = [[*line.names, *map(_entry, line.entries)] for line in sheet.lines]
    table = aligned([*sheet.axes, *titles], rows, len(sheet.axes))
    notes = "\n".join(f"- {_escaped(note)}" for note in sheet.notes)
    return f"**{_escaped(sheet.caption)}**\n\n{table}\n\n{notes}\n"


def significance(found: Results) -> str:
    """Every cell against the baseline: differences and p-values.

    Args:
        found: what the sweep found.

    Returns:
        A Markdown table that ends with a line break; empty without anything to compare.
    """
    base = next((cell for cell in found.cells if cell.baseline), None)
    rows = [
        [
            *(cell.options.get(axis, NOTHING) for axis in found.varying),
            metric.name,
            signed(comparison.difference, metric.digits),
            str(comparison.pairs),
            chance(comparison.permutation),
            chance(comparison.wilcoxon),
            chance(comparison.adjusted) + mark(comparison),
        ]
        for metric in found.metrics
        for cell in found.cells
        if (comparison := cell.comparisons.get(metric.name)) is not None
    ]
    if not rows or base is None:
        return ""
    names = [*found.varying, "metric"]
    header = [*names, "difference", "pairs", "p, sign flips", "p, Wilcoxon", "p, Holm"]
    table = aligned(header, rows, len(names))
    return f"**Against {_escaped(base.label)}**\n\n{table}\n"


def signed(value: float, digits: int) -> str:
    """A difference with its sign.

    Args:
        value: the difference.
        digits: after the decimal point.

    Returns:
        Text with a true minus.

    Examples:
        >>> signed(-0.123, 2), signed(1.0, 1), signed(-0.001, 2)
        ('−0.12', '+1.0', '0.00')
    """
    text = signless_zero(f"{value:.{digits}f}")
    return text.replace("-", "−") if text.startswith("-") or not text.strip("0.") else f"+{text}"


def chance(value: float | None) -> str:
    """A p-value.

    Args:
        value: None where nothing was tested.

    Returns:
        Three digits, or that there are none.

    Examples:
        >>> chance(0.0312), chance(0.00002), chance(None)
        ('0.031', '< 0.001', '–')
    """
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table whose columns line up.

    Args:
        header: titles.
        rows: of texts, as long as the header.
        left: how many columns, the first ones, are flush left; figures are flush right.

    Returns:
        Its lines, joined.

    Examples:
        >>> print(aligned(["a", "b"], [["x", "10"]], left=1))
        | a |  b |
        |:--|---:|
        | x | 10 |
    """
    escaped = [[_escaped(text) for text in row] for row in (header, *rows)]
    widths = [max(_width(row[i]) for row in escaped) for i in range(len(header))]
    lines = []
    for row in escaped:
        padded = [
            text + " " * (widths[i] - _width(text)) if i < left else
            " " * (widths[i] - _width(text)) + text
            for i, text in enumerate(row)
        ]  # fmt: skip
        lines.append(f"| {' | '.join(padded)} |")
    rule = [f":{'-' * (w + 1)}" if i < left else f"{'-' * (w + 1)}:" for i, w in enumerate(widths)]
    lines.insert(1, f"|{'|'.join(rule)}|")
    return "\n".join(lines)


def _entry(entry: Entry) -> str:
    if not entry.figure:
        return f"*{entry.text}*" if entry.text not in ("", NOTHING) else entry.text
    text = f"**{entry.text}**" if entry.best else entry.text
    note = f" ({entry.note})" if entry.note else ""
    return f"{text} {entry.mark}".rstrip() + note


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _width(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 1 for c in text)
