"""How runs stand: queued, running, done, failed, interrupted or lost; from records, claims and the cluster's queue."""

from pathlib import Path
from typing import Any

from benchmarks.inference.inventory import stored_models
from benchmarks.records.record import each_record, record_paths
from benchmarks.records.schema import DAMAGED, Record
from benchmarks.records.stored import DONE, evaluation_results, trial_results
from benchmarks.storage.locks import Lock
from benchmarks.suite.slurm_queue import QUEUED, RUNNING, JobEntry, queued_jobs

COLUMNS = ("run", "kind", "status", "result", "model_mib", "job", "where", "message")


def list_runs(results: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Every run, trial and evaluation that has a record, is under way, or was handed to a cluster.

    Returns:
        A row of `COLUMNS` each, and a line for each file that cannot be read. `status` is `queued`, `running`, `done`
        (with a result: ok, oom or diverged), `failed`, `interrupted` (the same command goes on with it), `damaged` (its
        files are not what was stored: the same command does it again) or `lost` (its job is gone and left nothing: the
        same command submits it again). `model_mib` is the size of the model that is kept of a run, where one is.

    Raises:
        UserError: A file that says what was handed to a cluster is damaged.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    problems: list[str] = []
    tuned: dict[tuple[Any, ...], str] = {}  # runs by the trials that chose their rate, and their seed
    folders = {"trial": trial_results(results), "run": results, "evaluation": evaluation_results(results)}
    for kind, folder in folders.items():
        for record in each_record(folder, problems):
            rows[kind, record["run_id"]] = _stored_row(kind, record)
            if kind == "evaluation":
                continue
            tuning = record["run"].get("tuning") or {}
            tuned[(*tuning.get("runs", ()), record["run"]["config"]["seed"])] = record["run_id"]
        for path in record_paths(folder) if problems else ():
            rows.setdefault((kind, path.stem), _row(path.stem, kind, DAMAGED))  # which could not even be read
        for path in (folder / "runs").glob(".*.lease"):
            holder = _holder(path)
            if holder is not None:
                run_id = path.name[1:].removesuffix(".lease")
                rows[kind, run_id] = _row(run_id, kind, "running", where=holder)
    for model in stored_models(results):
        if ("run", model.run_id) in rows:
            rows["run", model.run_id]["model_mib"] = round(model.num_bytes / 2**20, 2)
    for entry, state in queued_jobs(results):
        _add_job(rows, entry.run_id or tuned.get(entry.key), entry, state)
    return list(rows.values()), problems


def _row(run: str, kind: str, status: str, **more: str | None) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS, "") | {"run": run, "kind": kind, "status": status} | more


def _stored_row(kind: str, record: Record) -> dict[str, Any]:
    state = record["status"]["state"]
    status = "done" if state in DONE else state
    environment, message = record["environment"], record["status"].get("message")
    return _row(
        record["run_id"],
        kind,
        status,
        result=state if status == "done" else "",
        where=environment.get("host") or environment.get("host_id") or "",
        message=message or "",
    )


def _holder(path: Path) -> str | None:
    """Who has a run; None where that process has died."""
    lock = Lock(path)
    holder = lock.holder()
    try:
        if lock.try_acquire():
            lock.release()
            return None
    except OSError:  # a folder that we may only read
        return holder
    return holder


def _add_job(rows: dict[tuple[str, str], dict[str, Any]], run_id: str | None, entry: JobEntry, state: str) -> None:
    """Adds what the cluster knows; a record or a claim of the run says more than the cluster does."""
    key = ("trial" if entry.trial else "run", run_id or entry.name)
    row = rows.setdefault(key, _row(key[1], key[0], "lost"))
    if row["status"] in ("lost", "interrupted", DAMAGED, "queued"):
        if state in QUEUED:
            row["status"] = "queued"
        elif state in RUNNING:
            row["status"] = "running"
    row["job"] = f"{entry.job} {state}"
