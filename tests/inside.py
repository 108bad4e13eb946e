"""bench.py in this process, its runs too: where no process is the point, a test need not import torch anew for each."""

import contextlib
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import bench
from benchmarks.suite.processes import Job, Workers
from benchmarks.suite.progress import SuiteProgress
from benchmarks.suite.worker import _do
from benchmarks.training.clock import Clock


def finish_inside(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Does what `bench_process.finish` does; runs are stored as always, but write no log.

    A suite draws its figures as PNG alone: fonts for the PDFs are a third of what it costs without its runs.
    """
    out, err, num_threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    torch.set_num_threads(1)  # as there: how many add up decides the last bits
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, num_threads)
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(patch.dict(os.environ, COLUMNS="120"))
        stack.enter_context(patch.object(Workers, "follow", _follow))
        if arguments[0].startswith("-"):
            stack.enter_context(patch("benchmarks.report.canvas.SUFFIXES", (".png",)))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            status: Any = bench.main(list(arguments))
        except SystemExit as end:
            status = end.code
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def _follow(
    _: Workers, job: Job, progress: SuiteProgress, lost: object = None, another: bool = False
) -> dict[str, Any]:
    """Does a job, in place of the process that would."""

    def emit(event: str, **fields: Any) -> None:
        progress.event({"event": event} | fields)

    return _do(json.loads(job.as_line()), Clock(), emit)
