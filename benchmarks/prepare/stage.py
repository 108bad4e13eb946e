"""The folder in which a dataset is made: images are converted once, whatever kills the program in between.

`<data root>/.<name>.partial/` holds `converted/` (finished images), `journal.jsonl` (a line for each, written after its
file) and `tree/` (the dataset taking shape). A finished dataset keeps the journal as `.journal.jsonl`, so that
preparing it anew with another split or with more images converts only what is new.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.errors import MachineError, UserError
from benchmarks.images.decode import in_order
from benchmarks.prepare.convert import Converted
from benchmarks.raw.files import RawFile
from benchmarks.storage.files import file_sha256, not_writable, read_regular
from benchmarks.storage.locks import LEASE_SECONDS, Lock
from benchmarks.storage.name_key import KEY_FILE

KEPT_JOURNAL = ".journal.jsonl"


class Stage:
    """A partial dataset, locked while in use.

    Args:
        target: Where the finished dataset goes.
        recipe: What else decides the pixels of a converted image, such as the largest side.

    Raises:
        MachineError: Another process is preparing this dataset, or the data root cannot be written.
    """

    def __init__(self, target: Path, recipe: dict[str, Any]) -> None:
        self.target = target
        self.recipe = recipe
        self.folder = partial_folder(target)
        self.converted = self.folder / "converted"
        self.tree = self.folder / "tree"
        self.journal = self.folder / "journal.jsonl"
        self.lock = Lock(target.parent / f".{target.name}.lease")  # beside the folder, which goes when it is done

    def __enter__(self) -> "Stage":
        try:
            if not self.lock.acquire_unless_alive(self._say_that_it_waits):
                raise self._in_use()
        except OSError as error:
            raise not_writable(self.lock.path.parent, error, "data-root") from error
        try:
            self._take_up()
        except BaseException:
            self.lock.release()
            raise
        return self

    def _in_use(self) -> MachineError:
        return MachineError(
            f"{self.target.name} is being prepared by {self.lock.holder()}; wait for it, or end it (its lock is "
            f"{str(self.lock.path)!r})"
        )

    def _say_that_it_waits(self) -> None:
        print(
            f"{self.target.name} was being prepared by {self.lock.holder() or 'a process that left no name'}: looking "
            f"for up to {LEASE_SECONDS:.0f} s whether it still is",
            file=sys.stderr,
        )

    def _take_up(self) -> None:
        """Goes on from what a killed process has left, and from the finished dataset."""
        self.converted.mkdir(parents=True, exist_ok=True)
        self._recover()
        files = {path.name: path for path in self.converted.iterdir()}
        self.done = _intact(self._read(self.journal), files)
        self._adopt()
        rewritten = self.journal.with_suffix(".new")
        rewritten.write_text("".join(json.dumps(entry) + "\n" for entry in self.done.values()), encoding="utf-8")
        rewritten.replace(self.journal)
        self.lines = self.journal.open("a", encoding="utf-8")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lines.close()
        self.lock.release()

    def finished(self, file: RawFile, stem: str) -> Converted | None:
        """The converted image, where there is one of this very source."""
        entry = self.done.get(_key(file, stem, self.recipe))
        return Converted(entry["name"], entry["sha256"], entry["pixels"], entry["how"]) if entry else None

    def add(self, file: RawFile, stem: str, made: Converted) -> None:
        """Notes an image that has been converted."""
        self._append({"key": _key(file, stem, self.recipe), **made._asdict()})

    def place(self, names: Iterable[tuple[str, str]]) -> None:
        """Moves converted images to their places in the tree.

        Args:
            names: File name in `converted`, and path in the tree.
        """
        for name, path in names:
            place = self.tree / path
            place.parent.mkdir(parents=True, exist_ok=True)
            (self.converted / name).rename(place)

    def publish(self) -> None:
        """Puts the tree in the place of the dataset; what was there goes only now.

        Raises:
            MachineError: Another process has taken over, as this one showed no sign of life.
        """
        if self.lock.lost.is_set():
            raise self._in_use()
        self.lines.flush()
        shutil.copyfile(self.journal, self.tree / KEPT_JOURNAL)
        if (self.target / KEY_FILE).exists():  # stored results were hashed with it
            shutil.copy2(self.target / KEY_FILE, self.tree / KEY_FILE)
        if self.target.exists():
            self.target.rename(self.folder / "replaced")
        self.tree.rename(self.target)
        shutil.rmtree(self.folder)

    def _append(self, entry: dict[str, Any]) -> None:
        self.lines.write(json.dumps(entry) + "\n")
        self.lines.flush()

    def _recover(self) -> None:
        """Takes back the images of a tree that was not published, and the dataset that it was about to replace."""
        replaced = self.folder / "replaced"
        if replaced.exists() and not self.target.exists():
            replaced.rename(self.target)
        for path in self.tree.glob("*/*/*"):
            path.rename(self.converted / path.name)
        for half in self.converted.glob(".*"):
            half.unlink()
        for leftover in (self.tree, replaced):
            if leftover.exists():
                shutil.rmtree(leftover)

    def _read(self, journal: Path) -> list[dict[str, Any]]:
        """The last entry of each file in a journal; a damaged line is passed over."""
        by_name: dict[str, dict[str, Any]] = {}  # the last entry of a name is that of its file
        try:
            lines = read_regular(journal).decode(errors="replace").splitlines()
        except (FileNotFoundError, UserError):
            return []
        for line in lines:
            try:
                entry = json.loads(line)
                if all(isinstance(entry[name], str) for name in ("key", *Converted._fields)):
                    by_name[entry["name"]] = entry
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
        return list(by_name.values())

    def _adopt(self) -> None:
        """Shares the images of the finished dataset, which stays as it is until the new one is complete."""
        files = {path.name: path for path in self.target.glob("*/*/*")}
        recipe = json.dumps(self.recipe, sort_keys=True)
        wanted = [
            entry
            for entry in self._read(self.target / KEPT_JOURNAL)
            if entry["key"] not in self.done
            and not (self.converted / entry["name"]).exists()
            and entry["key"].endswith(f", {recipe}]")
        ]
        for key, entry in _intact(wanted, files).items():
            _share(files[entry["name"]], self.converted / entry["name"])
            self.done[key] = entry


def partial_folder(target: Path) -> Path:
    """Where a dataset is made before it goes to its place."""
    return target.parent / f".{target.name}.partial"


def _intact(entries: list[dict[str, Any]], files: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Those of a journal's entries whose files, given by name, are as they were written; by key."""
    known = [entry for entry in entries if entry["name"] in files]
    digests = in_order(file_sha256, [files[entry["name"]] for entry in known])
    return {entry["key"]: entry for entry, digest in zip(known, digests, strict=True) if digest == entry["sha256"]}


def _key(file: RawFile, stem: str, recipe: dict[str, Any]) -> str:
    return json.dumps([stem, file.source, file.size, file.stamp, recipe], sort_keys=True)


def _share(source: Path, place: Path) -> None:
    """A hard link to a prepared file; a copy where the file system has none."""
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)
