"""Tables in LaTeX: text that prints as it stands, a block as a table."""

import re
from collections.abc import Sequence

import pandas as pd

from benchmarks.analysis.summary import blocks
from benchmarks.names import printable
from benchmarks.report.captions import definitions, footnotes, protocol, spread, title, told_apart
from benchmarks.report.columns import columns_of, rows_by_resolution
from benchmarks.report.entries import Column, Entry

LATEX_PACKAGES = (
    "% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc};\n"
    "% with letters that are not Latin, lualatex or xelatex, and in place of fontenc \\usepackage{fontspec} with the\n"
    "% \\setmainfont of a font that has them.\n"
)
_RANKS = ("{}", r"\textbf{{{}}}", r"\underline{{{}}}")
TEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"},
    **{"<": "$<$", ">": "$>$", "±": r"$\pm$", "–": r"\textendash{}", "−": "$-$", "·": r"$\cdot$", "…": r"\ldots{}"},
    **{'"': r"\textquotedbl{}", "`": r"\textasciigrave{}"},
    **{
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "†": r"$^{\dagger}$",
        "‡": r"$^{\ddagger}$",
        "§": r"$^{\S}$",
        "¶": r"$^{\P}$",
        "‖": r"$^{\|}$",
        "⋆": r"$^{\star}$",
        "△": r"$^{\triangle}$",
        "◊": r"$^{\diamond}$",
        "⊗": r"$^{\otimes}$",
        "⊘": r"$^{\oslash}$",
    },
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LIGATURE = re.compile("([-,'])(?=\\1)")  # what LaTeX would join: hyphens to a dash, commas and apostrophes to quotes


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it stands; a control character, which it refuses, as its escape."""
    shown = _CONTROL.sub(lambda found: printable(found[0]), re.sub(r"\s+", " ", text))
    return _LIGATURE.sub(r"\1{}", "".join(TEX.get(character, character) for character in shown))


def latex(table: pd.DataFrame) -> str:
    """All blocks of a summary, a table each."""
    parts = list(blocks(table))
    first = [block.iloc[0] for block in parts]
    names = {place: label_name(f"{row['dataset']}-{row['block']}") for place, row in enumerate(first)}
    names = told_apart(names, {place: str(row["dataset_digest"]) for place, row in enumerate(first)})
    return LATEX_PACKAGES + "\n".join(_latex_block(block, names[place]) for place, block in enumerate(parts))


def label_name(text: str) -> str:
    """What of a text may stand in a LaTeX label."""
    return re.sub("[^a-z0-9]+", "-", text.lower())


def _latex_block(block: pd.DataFrame, name: str) -> str:
    caption = f"{title(block)}. {protocol(block)}. {spread(block)}. {definitions(block)}"
    return latex_table(block, columns_of(block), caption, name, footnotes(block))


def latex_table(
    block: pd.DataFrame, columns: Sequence[Column], caption: str, name: str, notes: Sequence[str] = ()
) -> str:
    """A block as a LaTeX table with a caption above, notes below, and the label `tab:<name>`."""
    lines = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{escape_latex(caption)}}}",
        rf"\label{{tab:{name}}}",
        rf"\begin{{tabular}}{{ll{'r' * (len(columns) - 1)}}}",
        r"\toprule",
        _row_tex(["Resolution", *(escape_latex(column.header + column.arrow) for column in columns)]),
    ]
    for resolution, group, ideas in rows_by_resolution(block, columns):
        lines.append(r"\midrule")
        for i, (entries, idea) in enumerate(zip(group, ideas, strict=True)):
            lines += _placetex(idea, len(columns), first=i == 0) if idea else []
            lines.append(_row_tex([escape_latex(resolution) if i == 0 else "", *map(_entry_tex, entries)]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if notes:
        shown = r" \\ ".join(map(escape_latex, notes))
        lines += [r"\par\smallskip", rf"\parbox{{\textwidth}}{{\footnotesize {shown}}}"]
    return "\n".join([*lines, r"\end{table*}", ""])


def _placetex(idea: str, num_columns: int, first: bool) -> list[str]:
    heading = rf" & \multicolumn{{{num_columns}}}{{l}}{{\emph{{{escape_latex(idea)}}}}} \\"
    return [heading] if first else [r"\addlinespace", heading]


def _row_tex(texts: list[str]) -> str:
    return " & ".join(texts) + r" \\"


def _entry_tex(entry: Entry) -> str:
    return _RANKS[entry.rank].format(escape_latex(entry.text)) + escape_latex(entry.mark)
