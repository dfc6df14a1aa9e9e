"""The table as LaTeX, for `booktabs`."""

from __future__ import annotations

import re
from itertools import groupby

from vedit.sweep.report.layout import DAGGER, DOUBLE, NOTHING, Entry, Line, Sheet

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$", "−": r"$-$", "×": r"$\times$",
    "–": "--", "·": r"$\cdot$", "°": r"$^\circ$", "‘": "`", "’": "'", "“": "``", "”": "''",
    DAGGER: r"$^{\dagger}$", DOUBLE: r"$^{\ddagger}$",
}  # fmt: skip


def latex(sheet: Sheet, label: str) -> str:
    r"""The table with caption and notes; its preamble needs `\usepackage{booktabs}`.

    Args:
        sheet: the table.
        label: for `\ref`, without "tab:".

    Returns:
        A `table` environment.
    """
    columns = "l" * len(sheet.axes) + "r" * len(sheet.columns)
    head = " & ".join(map(escaped, (*sheet.axes, *(column.title for column in sheet.columns))))
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(sheet.caption)}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *_groups(sheet),
        rf"{head} \\",
        r"\midrule",
        *(rf"{_row(line)} \\" for line in sheet.lines),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip{{\footnotesize {escaped(note)}}}" for note in sheet.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    r"""Text without anything that LaTeX would act on.

    Args:
        text: of one or several lines.

    Returns:
        One line of LaTeX.

    Examples:
        >>> print(escaped("50 % of a_b"))
        50 \% of a\_b
    """
    special = "|".join(map(re.escape, SPECIAL))
    return re.sub(special, lambda found: SPECIAL[found[0]], " ".join(text.split()))


def _groups(sheet: Sheet) -> list[str]:
    """A line of what columns are of, with rules below."""
    if not any(column.group for column in sheet.columns):
        return []
    parts, rules = [""] * len(sheet.axes), []
    at = len(sheet.axes) + 1
    for group, members in groupby(sheet.columns, key=lambda column: column.group):
        span = len(list(members))
        parts.append(rf"\multicolumn{{{span}}}{{c}}{{{escaped(group)}}}" if group else "")
        parts += [""] * (0 if group else span - 1)
        rules += [rf"\cmidrule(lr){{{at}-{at + span - 1}}}"] if group else []
        at += span
    return [" & ".join(parts) + r" \\", "".join(rules)]


def _row(line: Line) -> str:
    return " & ".join([*map(escaped, line.names), *map(_entry, line.entries)])


def _entry(entry: Entry) -> str:
    text = escaped(entry.text)
    if not entry.figure:
        return rf"\textit{{{text}}}" if entry.text not in ("", NOTHING) else text
    text = rf"\textbf{{{text}}}" if entry.best else text
    note = rf" \textit{{({escaped(entry.note)})}}" if entry.note else ""
    return text + escaped(entry.mark) + note
