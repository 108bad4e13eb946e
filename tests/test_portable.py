"""Commands that need no GPU run where what only Linux has is missing, as on macOS and Windows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_backbones import PLAIN

from benchmarks.environment import ROOT

STORED = f"--results {ROOT / 'results/demo'}"
TINY = f"--methods linear --backbone {PLAIN['augreg']} --cache cache"
COMMANDS = (
    "-h",
    f"params --methods full lora --backbone {PLAIN['augreg']}",
    f"memory --predict {TINY} --res 64",
    f"fit {TINY} --res 64",
    "tables --results stored",
    "plots --results stored",
    "report --results stored",
    "advise --results stored",
)
# Runs each command line on stdin in one process in which the system seems another one. The modules stay those of
# Linux where Python's own choose by the system when they are imported, which is before.
HIDE = """
import asyncio, builtins, ctypes, importlib, multiprocessing, os, pathlib, shlex, shutil, signal, subprocess, sys
import numpy, pandas, torch, timm, peft, transformers, filelock
import matplotlib.pyplot, scipy.stats, sklearn.metrics, psutil, plotly
import multiprocessing.popen_spawn_posix, concurrent.futures.process
system, root = sys.argv[1], sys.argv[2]
sys.path.insert(0, root)
for name in ("sched_getaffinity", "posix_fallocate", "posix_fadvise"):
    delattr(os, name)
if system == "win32":
    shutil._use_fd_functions = False
    for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM"):
        delattr(signal, name)
    for name in ("set_blocking", "getuid", "geteuid", "fchmod", "killpg", "getpgid", "setsid", "fork"):
        if hasattr(os, name):
            delattr(os, name)
    real_open = os.open
    def no_folders(path, flags, *rest, **named):
        if not isinstance(path, int) and os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, flags, *rest, **named)
    os.open = no_folders
    hidden = ("resource", "fcntl", "pwd", "grp", "termios")
else:
    hidden = ()
for name in hidden:
    sys.modules[name] = None
def absent(*_, **__):
    raise OSError("not on this system")
ctypes.CDLL = absent
real = pathlib.Path.read_text
def without_proc(self, *rest, **named):
    if str(self).startswith("/proc"):
        raise FileNotFoundError(2, "No such file or directory", str(self))
    return real(self, *rest, **named)
pathlib.Path.read_text = without_proc
sys.platform = system
import bench
bench.stop_on_signals()
for line in sys.stdin.read().splitlines():
    try:
        status = bench.main(shlex.split(line))
    except SystemExit as end:
        status = end.code
    print("DONE", status, line, flush=True)
"""


@pytest.mark.process
@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_commands_that_need_no_gpu_run_elsewhere(system: str, tmp_path: Path) -> None:
    (tmp_path / "stored").mkdir()
    (tmp_path / "stored/runs").symlink_to(ROOT / "results/demo/runs")
    (tmp_path / "stored/predictions").symlink_to(ROOT / "results/demo/predictions")
    done = subprocess.run(
        [sys.executable, "-c", HIDE, system, str(ROOT)],
        input="\n".join(COMMANDS),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"},
    )
    ended = [line.split(" ", 2)[1:] for line in done.stdout.splitlines() if line.startswith("DONE")]
    assert ended == [["0", line] for line in COMMANDS], done.stderr
    assert list((tmp_path / "stored").rglob("*.html")) and list((tmp_path / "stored").rglob("*.pdf"))
