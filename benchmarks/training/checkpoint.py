"""Checkpoints: the state of a training after an epoch, from which a run that was stopped goes on."""

import contextlib
import hashlib
import io
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from benchmarks.environment import CODE_DIGEST
from benchmarks.storage.files import file_sha256
from benchmarks.storage.modes import make_folder

_NAME = re.compile(r"epoch-(\d+)-([0-9a-f]{64})\.pt")


class Checkpoints:
    """The checkpoints of one run; all but the newest are removed.

    A file's name holds its SHA-256, so that what is cut short or damaged is never taken up. What another version of
    our code or of torch has left is not either: a run is of one version, or it begins again.

    Args:
        results: The results folder; checkpoints lie in its `checkpoints`.
        run_id: The run.
        note: Takes a line on what could not be stored or taken up.
    """

    def __init__(self, results: Path, run_id: str, note: Callable[[str], None]) -> None:
        import torch

        self.folder, self.note = results / "checkpoints" / run_id, note
        self.made_by = {"code": CODE_DIGEST, "torch": str(torch.__version__)}

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole; None where the run has to begin from its first epoch."""
        for path in reversed(self._stored()):
            try:
                state: dict[str, Any] = _read(path)
            except (OSError, ValueError) as error:
                self.note(f"checkpoint {path} is left aside: {error}")
                continue
            if state.get("made_by") != self.made_by:
                self.note(f"checkpoint {path} is left aside: it was made by another version of the code or of torch")
                continue
            return dict(state["training"])
        return None

    def store(self, epoch: int, training: dict[str, Any]) -> None:
        """Stores the state after an epoch (from 1): tensors, numbers, texts, and lists and dicts of them.

        A disk that cannot hold it stops no run: there is a note, and the checkpoint before stays.
        """
        import torch

        partial = self.folder / f".{os.getpid()}.tmp"
        before = self._stored()
        try:
            make_folder(self.folder)
            with partial.open("wb") as file:
                hashing = _Hashing(file)
                torch.save({"made_by": self.made_by, "training": training}, hashing)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.folder / f"epoch-{epoch:05}-{hashing.sha256.hexdigest()}.pt")
            for path in before:
                path.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:  # torch turns what a file raises into a RuntimeError
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            cause = error if isinstance(error, OSError) else error.__context__
            reason = cause.strerror if isinstance(cause, OSError) else str(error).splitlines()[0]
            self.note(f"checkpoint of epoch {epoch} cannot be stored in {self.folder}: {reason}")

    def remove(self) -> None:
        """Removes them all: the run has its record, or begins again."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stored(self) -> list[Path]:
        """Checkpoints by epoch."""
        paths = self.folder.glob("epoch-*.pt") if self.folder.is_dir() else ()
        return sorted(path for path in paths if _NAME.fullmatch(path.name))


def _read(path: Path) -> Any:
    """Loads a checkpoint, running no code from it.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged, or holds more than a state.
    """
    import torch

    match = _NAME.fullmatch(path.name)
    assert match is not None
    if file_sha256(path) != match[2]:
        raise ValueError("it is damaged")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError("it holds more than tensors and plain values") from error


class _Hashing(io.RawIOBase):
    """A file for writing that digests what goes through."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self.file.write(data)
