"""The tables in LaTeX, by a real TeX: whatever users call their data and machines, the document compiles."""

import shutil
import subprocess
from pathlib import Path

import matplotlib
import pytest
from absent import without
from fixed_records import fixed_records, odd_records

from benchmarks.records.frame import runs_frame
from benchmarks.report.paper_layout import write_paper_tables
from benchmarks.report.tables import write_tables

INSTALL = "apt-get install -y --no-install-recommends texlive-luatex texlive-latex-recommended"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
ENGINES = {
    "pdflatex": r"\usepackage[T1]{fontenc}",
    "lualatex": rf"\usepackage{{fontspec}}\setmainfont{{DejaVuSans.ttf}}[Path={FONTS}/,BoldFont=DejaVuSans-Bold.ttf]",
}
SPECIAL = r"_ % & # $ ~ ^ \ { } | < > [x] -- ,, '' `` ?` \end{table} \n *"
LETTERS = {"pdflatex": "Größe façade Œil Łódź", "lualatex": "глаза μάτια ღვინო Größe"}


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("engine", ENGINES)
def test_tables_compile_with_every_name_of_users(tmp_path: Path, engine: str) -> None:
    program = shutil.which(engine)
    if program is None:
        without(f"NO {engine}, THE TABLES IN LATEX ARE NOT TESTED; install one with: {INSTALL}")
    name = f"{SPECIAL}\x01\n{LETTERS[engine]}"
    frame = runs_frame([*fixed_records((448,)), *odd_records(name)])
    write_tables(tmp_path, frame)
    write_paper_tables(tmp_path, frame, published=True)
    for table in ("results", "paper"):
        document = tmp_path / f"{table}-document.tex"
        preamble = rf"\documentclass{{article}}\usepackage{{booktabs}}{ENGINES[engine]}"
        document.write_text(rf"{preamble}\begin{{document}}\input{{tables/{table}}}\end{{document}}")
        ended = subprocess.run(
            [program, "-interaction=nonstopmode", "-halt-on-error", document.name],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "max_print_line": "10000"},
            capture_output=True,
            text=True,
            errors="replace",
        )
        assert ended.returncode == 0, ended.stdout[-3000:]
        log = document.with_suffix(".log").read_text(errors="replace")
        assert "Missing character" not in log and document.with_suffix(".pdf").stat().st_size > 10_000
