"""The models of stored runs: which are kept, and which is meant."""

import difflib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.config import KeepModels
from benchmarks.errors import MachineError, MissingError, UserError
from benchmarks.inference.card import make_card, packed, read_model
from benchmarks.inference.kept import Kept
from benchmarks.names import told_apart
from benchmarks.records.record import kept_models, model_path, read_record, record_paths, store_run
from benchmarks.records.schema import Record
from benchmarks.scores import preference

if TYPE_CHECKING:
    import pandas as pd

BEST = "best"  # stands for the name of a run


def store_with_model(
    results: Path, record: Record, probabilities: "pd.DataFrame | None", kept: Kept | None, policy: KeepModels
) -> None:
    """Stores a run, with its model where that is to be kept; one that it takes the place of is removed then.

    A disk that cannot hold the model costs the model, not the run: a note in the record says so.

    Args:
        results: The results root.
        record, probabilities: As `store_run` takes them.
        kept: What is kept of the model, where anything is.
        policy: Which models are kept: `all`, `none`, or as `_rivals` says.
    """
    if kept is None or probabilities is None or record["status"]["state"] != "ok" or policy == "none":
        store_run(results, record, probabilities)
        return
    rivals = _rivals(results, record, policy)
    if not all(score_of(record) > score_of(rival) for rival in rivals):
        store_run(results, record, probabilities)
        return
    data = packed(kept.tensors, make_card(record, kept, probabilities))
    try:
        store_run(results, record, probabilities, data)
    except MachineError as error:
        notes = [*(record["run"].get("notes") or []), f"the model is not kept: {error}"]
        store_run(results, record | {"run": record["run"] | {"notes": notes}}, probabilities)
        return
    # Without a lock, which a full disk could not hold: of two that end at once both may stay, but never neither.
    for rival in rivals:
        model_path(results, rival["run_id"]).unlink(missing_ok=True)


def _rivals(results: Path, record: Record, policy: KeepModels) -> list[Record]:
    """Runs with a model beside which only the better one is kept; none where all are.

    `best` keeps one model of each dataset and resolution. `lean` keeps all but those of methods that leave nothing of
    the backbone as it is, whose files are as large as that: of these one of each method, dataset and resolution.
    """
    if policy == "all" or (policy == "lean" and record["measurements"]["parameters"]["frozen"]):
        return []
    config, names = record["run"]["config"], ["dataset_digest", "resolution"]
    beginning = record["run_id"].rpartition("-s")[0]  # dataset, resolution and method
    if policy == "best":
        beginning = beginning.removesuffix(config["method"])
    else:
        names.append("method")
    names_of_others = [run_id for run_id in kept_models(results, beginning) if run_id != record["run_id"]]
    others = [read_with_model(results, run_id) for run_id in names_of_others]
    return [
        rival
        for rival in others
        if rival is not None and all(rival["run"]["config"].get(name) == config[name] for name in names)
    ]


def read_with_model(results: Path, run_id: str) -> Record | None:
    """The record of a run with a model; None where it is missing, damaged or says nothing of validation."""
    try:
        record = read_record(results / "runs" / f"{run_id}.json")
    except UserError:
        return None
    val = record["measurements"].get("val") or {}
    return record if val.get("auc") is not None and val.get("loss") is not None else None


def score_of(record: Record) -> tuple[float, float]:
    """How good a run's model is on validation, as `preference` has it."""
    val = record["measurements"]["val"]
    return preference(val["auc"], val["loss"])


def run_with_model(results: Path, run_id: str) -> Record:
    """The record of a run whose model is kept.

    Raises:
        MissingError: There is no such run, or no model of it.
        UserError: The record is damaged.
    """
    try:
        record = read_record(results / "runs" / f"{run_id}.json")
    except MissingError as error:
        raise MissingError(_no_run(results, run_id)) from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise MissingError(_no_run(results, run_id)) from error  # no name of a run at all
    if record.get("model_sha256") is None or not model_path(results, run_id).exists():
        none_kept = record.get("model_sha256") is None
        why = "none was kept" if none_kept else "it was removed, or gave way to a better one"
        raise MissingError(
            f"model of a run must be there, got none of {run_id} ({why}); run it again with --overwrite --keep-models "
            "all"
        )
    return record


def stored_model(results: Path, run_id: str) -> tuple[Path, bytes]:
    """The file of a run's model, and its content, which is what was stored.

    Raises:
        MissingError: There is no such run, or no model of it.
        UserError: The record or the model is damaged.
    """
    digest, model = run_with_model(results, run_id)["model_sha256"], model_path(results, run_id)
    data = read_model(model)
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(
            f"model must be what was stored, got {str(model)!r}, whose content has changed; run it again with "
            "--overwrite"
        )
    return model, data


def _no_run(results: Path, run_id: str) -> str:
    names = [path.stem for path in record_paths(results)]
    nearest = difflib.get_close_matches(run_id, names, n=3, cutoff=0.3)
    hint = f"; nearest: {', '.join(nearest)}" if nearest else "; there is none"
    return f"run must be one of those under {str(results / 'runs')!r} (bench.py list runs), got {run_id!r}{hint}"


def best_run(results: Path) -> Record:
    """The record of the kept model with the best validation AUC.

    Raises:
        MissingError: There is none.
        UserError: There are some of several datasets.
    """
    found = [record for run_id in kept_models(results) if (record := read_with_model(results, run_id)) is not None]
    if not found:
        raise MissingError(
            f"results must hold a run whose model is kept, got none under {str(results / 'runs')!r}; run bench.py "
            "--methods ... first"
        )
    best: dict[str, Record] = {}
    for record in found:
        digest = str(record["run"]["config"].get("dataset_digest"))
        if digest not in best or score_of(record) > score_of(best[digest]):
            best[digest] = record
    if len(best) > 1:
        choices = "; ".join(
            f"{record['run_id']} of {told_apart(record['run']['config']['dataset'], digest)}"
            for digest, record in sorted(best.items(), key=lambda item: str(item[1]["run_id"]))
        )
        raise UserError(f"best must be of one dataset, got models of {len(best)}; name the run: {choices}")
    return next(iter(best.values()))
