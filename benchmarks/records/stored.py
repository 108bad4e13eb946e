"""What is stored of runs, and so what is still to be done; files are read again only where they have changed."""

import copy
from pathlib import Path

from benchmarks.errors import UserError
from benchmarks.records.record import predictions_path, read_record
from benchmarks.records.schema import DAMAGED

DONE = ("ok", "oom", "diverged")  # results; failed, interrupted and damaged runs are none
UNDONE = (None, "interrupted", DAMAGED)  # due under every policy
POLICIES = ("only-missing", "retry-failed", "overwrite")

TRIALS = "trials"  # below the results: trials are no results, and no table shows them
EVALUATIONS = "evaluations"  # below the results: of trained models on other images, which no ranking sees

Stamp = tuple[int, int]  # of a file: when it was written, and its inode


def trial_results(results: Path) -> Path:
    """Where the records of trials lie."""
    return results / TRIALS


def evaluation_results(results: Path) -> Path:
    """Where the records of evaluations lie."""
    return results / EVALUATIONS


class StoredStates:
    """The states of the records in a results folder.

    Args:
        results: The results folder.
        policy: `only-missing` does what has no record or was interrupted, `retry-failed` also what had failed before
            now, `overwrite` everything that was stored before now. Processes that share a suite share this too, so
            that what one has done again is not done again by the next.

    Attributes:
        damaged: Why a record is not to be believed, by run.
    """

    def __init__(self, results: Path, policy: str) -> None:
        assert policy in POLICIES
        self.folder, self.policy = results / "runs", policy
        self.damaged: dict[str, str] = {}
        self._known: dict[str, tuple[Stamp, Stamp | None, str | None]] = {}
        self._before: dict[str, Stamp | None] = {}
        if policy != "only-missing":
            self._before = {path.stem: _stamp(path) for path in self.folder.glob("[!.]*.json")}

    def state(self, run_id: str) -> str | None:
        """The state of a run's record; None where there is none or it is damaged."""
        path = self.folder / f"{run_id}.json"
        stamp = _stamp(path)
        if stamp is None:
            return None
        predictions = _stamp(predictions_path(self.folder.parent, run_id))
        known = self._known.get(run_id)
        if known is None or known[:2] != (stamp, predictions):
            known = self._known[run_id] = (stamp, predictions, self._read(path, run_id))
        return known[2]

    def is_due(self, run_id: str) -> bool:
        """Whether a run is to be done."""
        state = self.state(run_id)
        if state in UNDONE:
            return True
        return is_due(state, self.policy) and self._known[run_id][0] == self._before.get(run_id)

    def part(self, beginnings: tuple[str, ...]) -> "StoredStates":
        """The same for the runs whose ids begin so, without what is known of any: small enough to be sent around."""
        part = copy.copy(self)
        part.damaged, part._known = {}, {}
        part._before = {run_id: stamp for run_id, stamp in self._before.items() if run_id.startswith(beginnings)}
        return part

    def _read(self, path: Path, run_id: str) -> str | None:
        self.damaged.pop(run_id, None)
        try:
            return str(read_record(path)["status"]["state"])
        except UserError as error:
            self.damaged[run_id] = str(error)
            return None


def is_due(state: str | None, policy: str) -> bool:
    """Whether a command that starts now does a run whose record has this state; None where there is no record."""
    return state in UNDONE or policy == "overwrite" or (policy == "retry-failed" and state not in DONE)


def _stamp(path: Path) -> Stamp | None:
    """None where there is no such file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino
