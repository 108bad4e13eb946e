"""The script for CI, run with stand-ins for what it calls: what is missing is asked for, and every check is run."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "run"
PROGRAMS = ("chromium", "chromedriver", "slurmctld", "slurmd", "munged", "g++", "lualatex", "pdflatex")
BROWSER = "install -y -qq chromium chromium-driver"
SLURM = "install -y -qq --no-install-recommends slurm-wlm munge"
COMPILER = "install -y -qq g++"
TEX = "install -y -qq --no-install-recommends texlive-luatex texlive-latex-recommended"
STAND_INS = {
    "apt-get": '[ "$1" = update ] || { echo "$@" >> "$LOG"; exit "$APT_STATUS"; }',
    "sleep": "exit 0",
    "make": 'echo "make $* CI=$CI" >> "$LOG"',
}


@pytest.mark.parametrize(
    ("present", "apt_status", "asked"),
    [
        (PROGRAMS, 1, []),
        (("chromium", "slurmctld", "slurmd", "pdflatex"), 0, [BROWSER, SLURM, COMPILER, TEX]),
        (PROGRAMS[:2], 1, [SLURM] * 3 + [COMPILER] * 3 + [TEX] * 3),
    ],
    ids=["all present", "some present", "none to be had"],
)
def test_what_is_missing_is_asked_for_up_to_three_times(
    tmp_path: Path, present: tuple[str, ...], apt_status: int, asked: list[str]
) -> None:
    for name, does in STAND_INS.items() | dict.fromkeys(present, "exit 0").items():
        (tmp_path / name).write_text(f"#!{shutil.which('bash')}\n{does}\n")
        (tmp_path / name).chmod(0o755)
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    log = tmp_path / "log"
    env = {"PATH": str(tmp_path), "LOG": str(log), "APT_STATUS": str(apt_status)}
    ended = subprocess.run([SCRIPT], env=env, capture_output=True, text=True)
    assert ended.returncode == 0 and log.read_text().splitlines() == [*asked, "make --no-print-directory test CI=1"]
    assert ("could not be installed in three tries" in ended.stderr) == (apt_status == 1 and asked != [])
