"""What an error of ours leaves behind: one line for the user, and a file that says all about it."""

import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.errors import one_line
from benchmarks.privacy import hide_places
from benchmarks.storage.modes import make_folder, open_private

STATUS = 70  # EX_SOFTWARE of sysexits.h: an internal error of the program
PACKAGES = ("torch", "timm", "peft")


def report_crash(error: BaseException, results: Path) -> int:
    """Writes the file, and says on stderr what happened and where the file is.

    Args:
        error: What nobody expected.
        results: The results folder, for whose `logs` the file is meant; the system's folder for temporary files takes
            it where that cannot be written.

    Returns:
        The exit status.
    """
    first = (str(error).strip().splitlines() or [""])[0][:200]
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    where = _write(_content(error, results), results)
    ending = f"please report it with {where}" if where else "no file could be written that says more"
    print(f"bench.py: something went wrong inside the suite, {what}; {ending}", file=sys.stderr)
    return STATUS


def _content(error: BaseException, results: Path) -> str:
    """Traceback, command line and versions, without places, as it is for others to read."""
    lines = "\n".join(
        [
            f"command: {shlex.join(sys.argv)}",
            f"code: {_code()}",
            f"python: {platform.python_version()} on {platform.platform()}",
            *(f"{name}: {_version(name)}" for name in PACKAGES),
            "",
            *traceback.format_exception(error),
        ]
    )
    return hide_places(lines, {results.absolute(): "<results>", Path.cwd(): "."})


def _code() -> object:
    try:
        from benchmarks.environment import describe_code

        return describe_code()
    except Exception as error:  # whatever broke may have broken this as well
        return f"unknown ({one_line(error)})"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _write(content: str, results: Path) -> Path | None:
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (results / "logs", Path(tempfile.gettempdir())):
        try:
            make_folder(folder)
            with open(folder / name, "w", errors="backslashreplace", opener=open_private) as file:
                file.write(content)
            return folder / name
        except (OSError, ValueError):  # a path may hold what no system takes
            continue
    return None
