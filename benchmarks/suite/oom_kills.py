"""How many processes the system has ended for want of memory in the control group of a process.

The machine's own count would take somebody else's process for ours: many share a node of a cluster.
"""

from collections.abc import Iterator
from pathlib import Path

# The file of a group that counts, by the file system's type: of the second version of control groups, and of the first.
_COUNTERS = {"cgroup2": "memory.events", "cgroup": "memory.oom_control"}


class OomKills:
    """The count for one process's group, which is looked up while the process lives.

    Args:
        pid: The process.
        proc: Where the system tells of processes.
    """

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        try:
            self._files = list(_counters(proc / str(pid)))
        except (OSError, ValueError):  # another system than Linux, or one that hides it
            self._files = []
        self._before = self._count()

    def any_since(self) -> bool | None:
        """Whether there were any since this was made; None where the system does not say."""
        now = self._count()
        return None if now is None or self._before is None else now > self._before

    def _count(self) -> int | None:
        for file in self._files:
            try:
                lines = file.read_text().splitlines()
            except OSError:
                continue
            for line in lines:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return None


def _counters(process: Path) -> Iterator[Path]:
    """Files that may count, by what the system says of a process's groups and of where these are mounted."""
    groups = [line.split(":", 2)[1:] for line in (process / "cgroup").read_text().splitlines()]
    for line in (process / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, mount = before.split()[3:5]
        kind, _, options = after.split(maxsplit=2)
        memory = "" if kind == "cgroup2" else "memory"  # the second version has one tree, without names
        if kind not in _COUNTERS or (memory and memory not in options.split(",")):
            continue
        for controllers, group in groups:
            if memory in controllers.split(",") and Path(group).is_relative_to(root):
                yield Path(mount) / Path(group).relative_to(root) / _COUNTERS[kind]
