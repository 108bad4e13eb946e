"""What was read of thousands of records and found to be what was stored, so that only what has changed is read again.

It lies in `<results>/.index` and may be deleted at any time, which has every record and its predictions checked anew. A
record is taken from here only while its file and that of its predictions are the same files, of the same size, and were
written and changed at the same time to the nanosecond: whoever writes into a file cannot keep the last of these.
"""

import hashlib
import json
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from benchmarks.records.schema import Record
from benchmarks.storage import files
from benchmarks.storage.files import Stamp, read_disposable, write_disposable

FOLDER = ".index"
LEAST = 1000  # records: fewer are read in a fifth of a second
_SHARDS = 16  # files, so that a new run costs writing one of them
SETTLED = 2 * 10**9  # ns: what was changed less long ago may change again and keep the time of its file system's clock

Kept = tuple[Stamp, Stamp, bytes]


class RecordIndex:
    """The index of a results folder.

    Args:
        results: The results root.
    """

    def __init__(self, results: Path) -> None:
        self._folder = results / FOLDER
        self._kept = [_read(self._path(shard)) for shard in range(_SHARDS)]
        self._names = [set(kept) for kept in self._kept]
        self._new: list[dict[str, Kept]] = [{} for _ in range(_SHARDS)]
        self._settled = time.time_ns() - SETTLED

    def get(self, run_id: str, record: Stamp, predictions: Stamp) -> Record | None:
        """A run's record, once; None where its files are not those it was read from."""
        known = self._kept[_shard(run_id)].pop(run_id, None)  # to hold no record here that is held elsewhere
        if known is None or known[:2] != (record, predictions):
            return None
        content: Record = from_json(known[2])
        return content

    def keep(self, run_id: str, record: Stamp, predictions: Stamp, content: Record) -> None:
        """Keeps a record that was believed; the stamps are from before it was read."""
        if any(found is not None and max(found[2:]) > self._settled for found in (record, predictions)):
            return
        self._new[_shard(run_id)][run_id] = (record, predictions, to_json(content))

    def store(self, run_ids: Iterable[str]) -> None:
        """Writes what is new, and forgets records that are no longer there."""
        there = set(run_ids)
        for shard, (names, new) in enumerate(zip(self._names, self._new, strict=True)):
            if new or names - there:
                whole = (_read(self._path(shard)) if names else {}) | new
                kept = {run_id: known for run_id, known in whole.items() if run_id in there}
                write_disposable(self._path(shard), _packed(kept), "results", private=True)

    def _path(self, shard: int) -> Path:
        return self._folder / f"records-{shard:02}"


def _shard(run_id: str) -> int:
    return zlib.crc32(run_id.encode()) % _SHARDS


def _packed(kept: dict[str, Kept]) -> bytes:
    """A line that says whose records follow, and how long each is; then these."""
    entries = [(run_id, *stamps, len(content)) for run_id, (*stamps, content) in kept.items()]
    head = json.dumps({"code": CODE, "entries": entries}).encode()
    return b"\n".join([head, b"".join(content for *_, content in kept.values())])


def _read(path: Path) -> dict[str, Kept]:
    """What was kept in a file by this very code; other code may believe less."""
    data = read_disposable(path)
    if data is None:
        return {}
    start = data.index(b"\n") + 1
    head: dict[str, Any] = from_json(data[:start])
    kept: dict[str, Kept] = {}
    for run_id, record, predictions, length in head["entries"] if head["code"] == CODE else ():
        kept[run_id] = (record and tuple(record), predictions and tuple(predictions), data[start : start + length])
        start += length
    return kept


def _code_digest() -> str:
    """Of all that decides whether a record is believed."""
    paths = [*sorted(Path(__file__).parent.glob("*.py")), Path(files.__file__)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


CODE = _code_digest()
