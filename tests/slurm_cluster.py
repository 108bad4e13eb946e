"""A private one-machine SLURM for tests: munged, slurmctld and slurmd in a folder, with a key and ports, of their own.

Nothing of a SLURM or munge that the machine already runs is touched. The node declares more CPUs and GPUs than the
machine has, so that several small jobs run at once. `python tests/slurm_cluster.py bash` starts a shell in it.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

NUM_CPUS = 8
# SLURM takes any device file as a GPU, and sets CUDA_VISIBLE_DEVICES to its number in this row.
GPU_DEVICES = ("/dev/null", "/dev/zero")
DAEMONS = ("munged", "slurmctld", "slurmd")
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
# Jobs of `urgent` preempt those of `normal`, which get SIGTERM, after KillWait seconds SIGKILL, and are queued again.
# They start cred_expire seconds later at the earliest; 5 is the least that SLURM takes.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=3
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={num_cpus} RealMemory=4000 Gres=gpu:{num_gpus} Feature=small State=UNKNOWN
PartitionName=normal Nodes=ALL Default=YES PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""


def missing() -> str:
    """Why no cluster can be started here, in words; empty where one can."""
    absent = [daemon for daemon in DAEMONS if _program(daemon) is None]
    if absent:
        return f"{', '.join(absent)} not found: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "slurmctld and slurmd are started as root, and this is not root"
    return ""


@contextlib.contextmanager
def slurm_cluster() -> Iterator[dict[str, str]]:
    """Starts the cluster and stops it at the end, its jobs with it.

    Yields:
        The environment variables with which SLURM's commands, and so submitit, speak to it.

    Raises:
        RuntimeError: The node is not idle after START_TIMEOUT_S seconds, or a daemon ended; with the daemons' logs.
    """
    # Short, since a socket's path is limited to about 100 characters, and open to all, as munged demands.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    folder.chmod(0o755)
    daemons: dict[str, subprocess.Popen[bytes]] = {}
    environment = _configure(folder)
    try:
        key, munge_socket = folder / "munge.key", folder / "munge.socket"
        files = [f"--{kind}-file={folder}/munge.{kind}" for kind in ("pid", "log", "seed")]
        daemons["munged"] = _start(
            folder, environment, "munged", "--foreground", f"--key-file={key}", f"--socket={munge_socket}", *files
        )
        _wait(daemons, folder, munge_socket.exists)
        daemons["slurmctld"] = _start(folder, environment, "slurmctld", "-D")
        daemons["slurmd"] = _start(folder, environment, "slurmd", "-D")
        _wait(daemons, folder, lambda: _query(environment, "sinfo", "--noheader", "--format=%T") == "idle")
        yield environment
    finally:
        _stop(environment)
        for daemon in daemons.values():
            daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path) -> dict[str, str]:
    """Writes key and configuration; returns the environment that points at them."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    with socket.socket() as first, socket.socket() as second:
        for sock in (first, second):
            sock.bind(("127.0.0.1", 0))
        controller_port, node_port = first.getsockname()[1], second.getsockname()[1]
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in GPU_DEVICES))
    conf = folder / "slurm.conf"
    conf.write_text(
        SLURM_CONF.format(
            host=socket.gethostname().split(".")[0],
            folder=folder,
            controller_port=controller_port,
            node_port=node_port,
            num_cpus=NUM_CPUS,
            num_gpus=len(GPU_DEVICES),
        )
    )
    return os.environ | {"SLURM_CONF": str(conf)}


def _program(name: str) -> str | None:
    # A root shell without a login may lack sbin.
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _start(folder: Path, environment: dict[str, str], name: str, *args: str) -> subprocess.Popen[bytes]:
    """A daemon that ends when this process dies, however it dies."""
    program = _program(name)
    assert program is not None, f"{name}: missing() was not asked"
    with (folder / f"{name}.out").open("wb") as out:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", program, *args], env=environment, stdout=out, stderr=subprocess.STDOUT
        )


def _query(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()


def _wait(daemons: dict[str, subprocess.Popen[bytes]], folder: Path, ready: Callable[[], bool]) -> None:
    """Waits until `ready()`.

    Raises:
        RuntimeError: It is not within START_TIMEOUT_S seconds, or a daemon ended.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        ended = [name for name, daemon in daemons.items() if daemon.poll() is not None]
        if ended or time.monotonic() > deadline:
            logs = [f"{path}:\n{path.read_text(errors='replace')}" for path in sorted(folder.glob("*.out"))]
            reason = f"{', '.join(ended)} ended" if ended else f"not ready after {START_TIMEOUT_S:.0f} s"
            raise RuntimeError("\n".join([f"no SLURM could be started: {reason}", *logs]))
        time.sleep(0.1)


def _stop(environment: dict[str, str]) -> None:
    """Ends jobs, then kills what is left of daemons and jobs, found by their environment.

    A job's processes are no children of slurmd and may ignore SIGTERM, and a slurmstepd that still has a job when its
    slurmctld goes would wait for it forever.
    """
    _query(environment, "scancel", "--full", "--signal=KILL", "--user=root")
    _query(environment, "scancel", "--user=root")
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _query(environment, "squeue", "--noheader") and time.monotonic() < deadline:
        time.sleep(0.2)
    running = True
    while running:
        running = False
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                named = process.environ().get("SLURM_CONF") == environment["SLURM_CONF"]
                if named and process.status() != psutil.STATUS_ZOMBIE:
                    process.kill()
                    running = True


if __name__ == "__main__":
    with slurm_cluster() as variables:
        sys.exit(subprocess.run(sys.argv[1:], env=variables, check=False).returncode)
