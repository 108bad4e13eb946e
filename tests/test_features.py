"""The feature cache: what goes in comes out, one cache a key, and nothing half-made, damaged or foreign is read."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.features.cache import Buffers, FeatureCache, FeatureRequest, FeatureRows, open_feature_cache
from benchmarks.features.cache_files import DESCRIPTION, MARKS, STATE
from benchmarks.storage.files import read_sealed, seal

ROOT = Path(__file__).resolve().parent.parent
KEY: dict[str, Any] = {"backbone": "vit", "normalization": ((0.5, 0.5), (0.2, 0.2)), "resolution": 512}
PARTS = (2, 3, 5)
KEYS = torch.arange(5 * 3 * 2, dtype=torch.float16).view(5, 3, 2)  # 12 bytes a sample
VALUES = torch.linspace(-1, 1, 5 * 3 * 4).view(5, 3, 4)  # 48 bytes a sample
QUANTIZED = torch.arange(-30, 30, dtype=torch.int8).view(5, 3, 4)
SHAPES = {"keys": ((3, 2), "float16"), "values": ((3, 4), "float32"), "quantized": ((3, 4), "int8")}
BATCHES = [range(0, 2), range(2, 3), range(3, 5)]
ALL = {"keys": KEYS, "values": VALUES, "quantized": QUANTIZED}
ROW_BYTES = 12 + 48 + 12


def rows(batch: range, parts: Sequence[int] = PARTS) -> dict[str, Tensor]:
    places = [PARTS.index(part) for part in parts]
    return {name: tensor[batch.start : batch.stop][:, places] for name, tensor in ALL.items()}


def request(parts: tuple[int, ...] = PARTS, **changes: Any) -> FeatureRequest:
    shapes = {name: ((len(parts), *shape[1:]), dtype) for name, (shape, dtype) in SHAPES.items()}
    return FeatureRequest(KEY | changes, parts, shapes, BATCHES)


class Extraction:
    """Computes features, and knows which batches it was asked for."""

    def __init__(self, parts: Sequence[int] = PARTS, stop: BaseException | None = None) -> None:
        self.parts, self.stop, self.batches = parts, stop, list[range]()

    def __call__(self, batches: Sequence[range]) -> Iterator[Mapping[str, Tensor]]:
        for batch in batches:
            self.batches.append(batch)
            yield rows(batch, self.parts)
            if self.stop is not None:
                raise self.stop


def never(batches: Sequence[range]) -> Iterator[Mapping[str, Tensor]]:
    raise AssertionError(f"the cache was there, yet {batches} were asked for")
    yield {}


def no_wait() -> None:
    raise AssertionError("no other process is at work")


def build(root: Path, compute: Any = None, asked: FeatureRequest | None = None) -> FeatureCache:
    return open_feature_cache(root, asked or request(), compute or Extraction(), no_wait)


def read(cache: FeatureCache | FeatureRows, *indices: int) -> dict[str, Tensor]:
    with ThreadPoolExecutor(2) as pool:
        return cache.read(np.array(indices), False, pool.map)


def folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.name != ".leases")


def content(root: Path) -> dict[str, bytes]:
    (folder,) = folders(root)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != STATE}


def test_what_goes_in_comes_out_bit_for_bit(tmp_path: Path) -> None:
    first, again = build(tmp_path), build(tmp_path, never)
    for cache in (first, again):
        for name, tensor in read(cache, 4, 0, 0, 3).items():
            assert tensor.dtype == ALL[name].dtype and torch.equal(tensor, ALL[name][[4, 0, 0, 3]])
        assert cache.num_bytes == 5 * ROW_BYTES
        assert cache.state.complete and cache.state.batch_size == 2
    assert (first.reused, again.reused) == (False, True)
    assert again.state.seconds == first.state.seconds > 0


def test_features_without_parts_come_back_without_them(tmp_path: Path) -> None:
    asked = FeatureRequest(KEY, None, {"feature": ((4,), "float32")}, BATCHES)

    def compute(batches: Sequence[range]) -> Iterator[dict[str, Tensor]]:
        for batch in batches:
            yield {"feature": VALUES[batch.start : batch.stop, 0]}

    cache = build(tmp_path, compute, asked)
    assert torch.equal(read(cache, 2, 1)["feature"], VALUES[[2, 1], 0])
    assert cache.num_bytes == 5 * 16


def test_a_split_reads_its_own_rows(tmp_path: Path) -> None:
    assert torch.equal(read(FeatureRows(build(tmp_path), 3), 1, 0)["keys"], KEYS[[4, 3]])


def test_a_cache_of_more_parts_serves_for_fewer(tmp_path: Path) -> None:
    build(tmp_path)
    for parts in ((3, 5), (2, 5), (3,)):
        cache = build(tmp_path, never, request(parts))
        assert cache.reused and cache.num_bytes == 5 * ROW_BYTES * len(parts) // 3
        for name, tensor in read(cache, 1, 4).items():
            assert torch.equal(tensor, ALL[name][[1, 4]][:, [PARTS.index(part) for part in parts]])


def test_a_cache_of_fewer_parts_does_not_serve_for_more(tmp_path: Path) -> None:
    build(tmp_path, Extraction((3, 5)), request((3, 5)))
    extraction = Extraction()
    assert torch.equal(read(build(tmp_path, extraction), 2)["values"], VALUES[[2]])
    assert extraction.batches == BATCHES


def test_an_unfinished_cache_of_more_parts_does_not_serve(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Extraction(stop=KeyboardInterrupt()))
    assert not build(tmp_path, Extraction((3,)), request((3,))).reused


def test_every_part_of_the_key_makes_another_cache(tmp_path: Path) -> None:
    build(tmp_path)
    others: dict[str, Any] = {"backbone": "deit", "normalization": ((0, 0), (1, 1)), "resolution": 448}
    assert set(others) == set(KEY)
    for name, value in others.items():
        assert not build(tmp_path, asked=request(**{name: value})).reused
    assert not build(tmp_path, asked=request(precision="bf16")).reused
    assert len(folders(tmp_path)) == len(others) + 2


@pytest.mark.parametrize("name", sorted(KEY))
def test_a_cache_of_another_key_is_refused_by_the_name_of_what_differs(tmp_path: Path, name: str) -> None:
    build(tmp_path)
    path = folders(tmp_path)[0] / DESCRIPTION
    stored = json.loads(read_sealed(path))
    stored["key"][name] = "something else"
    path.write_bytes(seal(path, json.dumps(stored).encode()))
    with pytest.raises(RuntimeError, match=rf"another {name} than its name says.*bench\.py clean caches"):
        build(tmp_path, never)


@pytest.mark.parametrize("name", ["values.bin", MARKS, DESCRIPTION, STATE])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    build(tmp_path)
    path = folders(tmp_path)[0] / name
    whole = path.read_bytes()
    for damage in (whole[:-7], whole[:20], b"", b"[]"):
        path.write_bytes(damage)
        with pytest.raises(
            RuntimeError, match=r"feature cache .* is damaged .*; remove it with bench\.py clean caches"
        ):
            build(tmp_path, never)
    if name in (DESCRIPTION, STATE):
        path.write_bytes(whole + b" ")
        with pytest.raises(RuntimeError, match=r"is damaged \(.*must have the digest in its first line, got another\)"):
            build(tmp_path, never)
        path.write_bytes(whole)
        path.write_bytes(seal(path, json.dumps(json.loads(read_sealed(path)) | {"more": 1}).encode()))
        with pytest.raises(RuntimeError, match=r"is damaged \(.*more must be a known name, got 1\)"):
            build(tmp_path, never)
    if name != STATE:
        path.unlink()
        with pytest.raises(RuntimeError, match="is damaged"):
            build(tmp_path, never)


def test_a_flipped_bit_is_seen_when_its_sample_is_read(tmp_path: Path) -> None:
    build(tmp_path)
    path = folders(tmp_path)[0] / "values.bin"
    damaged = bytearray(path.read_bytes())
    damaged[3 * 48 + 2 * 16 + 5] ^= 1  # sample 3, its third part
    path.write_bytes(damaged)
    cache = build(tmp_path, never)
    read(cache, 0, 1, 2, 4)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"damaged \(the checksum of sample 3 is wrong\)"):
            read(cache, 2, 3)
    assert torch.equal(read(build(tmp_path, never, request((2, 3))), 3)["values"], VALUES[[3], :2])


class Killed(BaseException):
    """Ends a build where a SIGKILL would."""


def interrupt_writes(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException, half: bool) -> None:
    """Makes the `number`-th write fail, before or after half of it."""
    real, count = os.pwrite, 0

    def pwrite(file: int, data: Any, offset: int) -> int:
        nonlocal count
        count += 1
        if count == number:
            if half:
                real(file, data[: len(data) // 2], offset)
            raise error
        return real(file, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("number", range(1, 13))  # three batches of three features and a checksum each
def test_a_build_killed_at_any_write_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, half: bool
) -> None:
    with monkeypatch.context() as patch:
        interrupt_writes(patch, number, Killed(), half)
        with pytest.raises(Killed):
            build(tmp_path / "killed")
    extraction = Extraction()
    cache = build(tmp_path / "killed", extraction)
    done = (number - 1) // 4  # batches whose checksums were written
    assert extraction.batches == BATCHES[done:]
    build(tmp_path / "undisturbed")
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")
    assert torch.equal(read(cache, *range(5))["values"], VALUES)


def test_a_disk_that_fills_up_leaves_a_build_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_writes(patch, 6, OSError(errno.ENOSPC, "No space left on device"), half=True)
        with pytest.raises(
            RuntimeError, match=r"cannot be stored under .*: No space left on device; make room .*goes on"
        ):
            build(tmp_path)
    extraction = Extraction()
    build(tmp_path, extraction)
    assert extraction.batches == BATCHES[1:]


def test_a_disk_without_the_room_is_seen_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    needed = 5 * (ROW_BYTES + 3 * 8)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(2000, 0, needed - 1))
        with pytest.raises(RuntimeError, match=r"features need .* GiB .* are free; make room .*--preload off"):
            build(tmp_path, never)
    with monkeypatch.context() as patch:  # another process took the room in between
        patch.setattr(os, "posix_fallocate", lambda *_: exec("raise OSError(28, 'No space left on device')"))
        with pytest.raises(RuntimeError, match="features need"):
            build(tmp_path, never)
    assert folders(tmp_path) == []
    assert not build(tmp_path).reused


def test_files_half_made_are_made_again(tmp_path: Path) -> None:
    build(tmp_path)
    (folder,) = folders(tmp_path)
    for name in (DESCRIPTION, STATE):
        (folder / name).unlink()
    assert not build(tmp_path).reused


def test_an_error_of_extraction_keeps_what_was_finished(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        build(tmp_path, Extraction(stop=RuntimeError("out of memory")))
    extraction = Extraction()
    build(tmp_path, extraction)
    assert extraction.batches == BATCHES[1:]


PROCESS = """
    import sys, time
    sys.path[:0] = [{root!r}, {tests!r}]
    from pathlib import Path
    from benchmarks.features.cache import open_feature_cache
    from test_features import request, rows

    def compute(batches):
        for batch in batches:
            print("batch", batch.start, flush=True)
            time.sleep({pause})
            yield rows(batch)

    cache = open_feature_cache(Path(sys.argv[1]), request(), compute, lambda: print("waits", flush=True))
    print("reused" if cache.reused else "computed", flush=True)
"""


def process(root: Path, pause: float) -> "subprocess.Popen[str]":
    code = textwrap.dedent(PROCESS).format(root=str(ROOT), tests=str(ROOT / "tests"), pause=pause)
    return subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True)


@pytest.mark.process
def test_two_processes_do_not_compute_the_same_features_twice(tmp_path: Path) -> None:
    both = [process(tmp_path, 1.0) for _ in range(2)]
    printed = [one.communicate()[0].split("\n")[:-1] for one in both]
    assert sorted(printed, key=len) == [["waits", "reused"], ["batch 0", "batch 2", "batch 3", "computed"]]


@pytest.mark.process
def test_a_killed_process_gives_up_its_lock_and_loses_nothing(tmp_path: Path) -> None:
    killed = process(tmp_path, 0.2)
    assert killed.stdout is not None
    for line in killed.stdout:
        if line == "batch 3\n":  # by then the first batch is stored, the second perhaps
            break
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    extraction = Extraction()
    cache = build(tmp_path, extraction)
    assert extraction.batches in (BATCHES[1:], BATCHES[2:])
    assert torch.equal(read(cache, *range(5))["keys"], KEYS)


@pytest.mark.parametrize("parts", [(2, 3, 5), (3, 5), (2, 5)])
@pytest.mark.parametrize("block_bytes", [0, 3 * ROW_BYTES, 2**18])
def test_samples_are_where_a_plain_loop_puts_them_however_many_are_copied_at_once(
    tmp_path: Path, parts: tuple[int, ...], block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.features.cache.BLOCK_BYTES", block_bytes)
    build(tmp_path)
    cache = build(tmp_path, never, request(parts))
    places = [PARTS.index(part) for part in parts]
    for indices in ([3, 0, 4, 4, 1, 2, 0], [2]):
        for found in (read(cache, *indices), cache.read(np.array(indices), False, map)):
            for name, tensor in ALL.items():
                assert torch.equal(found[name], torch.stack([tensor[index][places] for index in indices]))


def test_memory_of_batches_is_used_again_once_no_tensor_lies_in_it() -> None:
    buffers, float16 = Buffers(), np.dtype("float16")
    first = buffers.take((4, 3), float16)
    view, address = first[1:], first.data_ptr()
    del first
    other = buffers.take((4, 3), float16)
    assert other.data_ptr() != address  # a view of the first one is still alive
    del view
    assert buffers.take((2, 3), float16).data_ptr() == address  # as for a last batch, which is smaller
    assert buffers.take((4, 3), np.dtype("float32")).data_ptr() not in (address, other.data_ptr())


def test_batches_that_are_kept_are_not_overwritten(tmp_path: Path) -> None:
    cache = build(tmp_path)
    kept = [(index, read(cache, index, 0)) for index in range(5)]
    for index, batch in kept:
        for name, tensor in batch.items():
            assert torch.equal(tensor, ALL[name][[index, 0]])
