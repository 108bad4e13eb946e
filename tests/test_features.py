"""The feature cache: what goes in comes out, one cache a key, and nothing half-made or foreign is ever read."""

import json
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.features import KEY_FILE, FeatureCache, open_feature_cache

KEY: dict[str, Any] = {"format": 1, "backbone": "vit", "normalization": ((0.5, 0.5), (0.2, 0.2)), "resolution": 512}
KEYS = torch.arange(5 * 2 * 3, dtype=torch.float16).view(5, 2, 3)
VALUES = torch.linspace(-1, 1, 20).view(5, 4)


def batches(size: int = 2) -> Iterator[dict[str, Tensor]]:
    for start in range(0, 5, size):
        yield {"keys": KEYS[start : start + size], "values": VALUES[start : start + size]}  # 60 and 80 bytes in all


def never() -> Iterator[dict[str, Tensor]]:
    raise AssertionError("the cache was there")
    yield {}


def build(root: Path, **changes: Any) -> FeatureCache:
    return open_feature_cache(root, KEY | changes, 5, batches)


def only_folder(root: Path) -> Path:
    (folder,) = root.iterdir()
    return folder


def test_what_goes_in_comes_out_bit_for_bit(tmp_path: Path) -> None:
    first = build(tmp_path)
    again = open_feature_cache(tmp_path, KEY, 5, never)
    for cache in (first, again):
        assert set(cache.features) == {"keys", "values"}
        assert cache.features["keys"].dtype == np.float16 and cache.features["values"].dtype == np.float32
        assert np.array_equal(cache.features["keys"], KEYS) and np.array_equal(cache.features["values"], VALUES)
        assert cache.num_bytes == 5 * 2 * 3 * 2 + 5 * 4 * 4
    assert (first.reused, again.reused) == (False, True)
    assert again.seconds == first.seconds > 0
    with pytest.raises(ValueError, match="read-only"):
        again.features["values"][0] = 0


def test_every_part_of_the_key_makes_another_cache(tmp_path: Path) -> None:
    build(tmp_path)
    others: dict[str, Any] = {"format": 2, "backbone": "deit", "normalization": ((0, 0), (1, 1)), "resolution": 448}
    assert set(others) == set(KEY)
    for name, value in others.items():
        assert not build(tmp_path, **{name: value}).reused
    assert not build(tmp_path, precision="bf16").reused
    assert len(list(tmp_path.iterdir())) == len(others) + 2


@pytest.mark.parametrize("name", sorted(KEY))
def test_a_cache_of_another_key_is_refused_by_the_name_of_what_differs(tmp_path: Path, name: str) -> None:
    build(tmp_path)
    path = only_folder(tmp_path) / KEY_FILE
    stored = json.loads(path.read_text())
    stored["key"][name] = "something else"
    path.write_text(json.dumps(stored))
    with pytest.raises(RuntimeError, match=rf"has another {name}; delete that folder and run again"):
        open_feature_cache(tmp_path, KEY, 5, never)


def test_a_cache_with_other_samples_is_refused(tmp_path: Path) -> None:
    build(tmp_path)
    with pytest.raises(RuntimeError, match=r"holds 5 keys, not 6; delete that folder"):
        open_feature_cache(tmp_path, KEY, 6, never)


def test_a_damaged_cache_is_refused(tmp_path: Path) -> None:
    build(tmp_path)
    folder = only_folder(tmp_path)
    content = (folder / "values.npy").read_bytes()
    for damage in (content[:-7], content[:20], b""):
        (folder / "values.npy").write_bytes(damage)
        with pytest.raises(RuntimeError, match=r"feature cache .* is damaged .*; delete that folder and run again"):
            open_feature_cache(tmp_path, KEY, 5, never)
    (folder / "values.npy").unlink()
    with pytest.raises(RuntimeError, match="is damaged"):
        open_feature_cache(tmp_path, KEY, 5, never)
    (folder / "values.npy").write_bytes(content)
    for damage in (b"", b"{", b"[]", b"{}"):
        (folder / KEY_FILE).write_bytes(damage)
        with pytest.raises(RuntimeError, match="is damaged"):
            open_feature_cache(tmp_path, KEY, 5, never)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("out of memory"), OSError(28, "No space left")])
def test_a_build_that_is_broken_off_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def broken() -> Iterator[dict[str, Tensor]]:
        yield next(batches())
        raise error

    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        open_feature_cache(tmp_path, KEY, 5, broken)
    assert list(tmp_path.iterdir()) == []
    assert not build(tmp_path).reused


def test_what_a_killed_build_left_is_no_cache(tmp_path: Path) -> None:
    build(tmp_path)
    folder = only_folder(tmp_path)
    folder.rename(folder.with_name(f"{folder.name}.123.partial"))
    assert not build(tmp_path).reused


def test_a_build_that_yields_too_few_samples_is_no_cache(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="6 samples"):
        open_feature_cache(tmp_path, KEY, 6, batches)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_seen_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    room_for_each_but_not_both = usage(200, 61, 139)
    monkeypatch.setattr("shutil.disk_usage", lambda path: room_for_each_but_not_both)
    with pytest.raises(RuntimeError, match=r"features need .* GiB .* are free; make room, .*--preload off"):
        build(tmp_path)
    assert list(tmp_path.iterdir()) == []
