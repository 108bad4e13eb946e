"""bench.py preload, list caches and clean caches, as a user starts them."""

import json
from pathlib import Path
from typing import Any

import pytest
from bench_process import TINY, finish, records
from inside import finish_inside
from tiny_images import make_images

from benchmarks.environment import TRAINS, code_digest, method_files
from benchmarks.features.inventory import remove_caches, stored_caches
from benchmarks.storage.files import read_sealed
from benchmarks.storage.locks import held_lock
from benchmarks.training.preload import EXTRACTS

pytestmark = pytest.mark.process

OPTIONS = [*TINY, "--set", "fpt_plus.side_resolution=32", "fpt.side_resolution=32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny images, with the features of FPT and FPT+ preloaded and FPT+ trained on them."""
    folder = tmp_path_factory.mktemp("caches")
    make_images(folder / "images")
    made = finish(folder, "preload", "--methods", "fpt_plus", "fpt", *OPTIONS, "--seeds", "0", "--format", "json")
    assert made.returncode == 0, made.stderr
    (folder / "made.json").write_text(made.stdout)
    run = finish_inside(folder, "--methods", "fpt_plus", *TINY, "--epochs", "1", "--set", "fpt_plus.side_resolution=32")
    assert run.returncode == 0, run.stderr
    return folder


def test_preload_makes_one_cache_for_fpt_and_fpt_plus(folder: Path) -> None:
    fpt, fpt_plus = json.loads((folder / "made.json").read_text())
    assert [row["method"] for row in (fpt, fpt_plus)] == ["fpt", "fpt_plus"]  # the larger cache first, for both
    assert fpt["state"] == fpt_plus["state"] == "ok"
    assert fpt["cache"] == fpt_plus["cache"]
    assert (fpt["reused"], fpt_plus["reused"]) == (False, True)
    tokens, heads, width = int(0.2 * (1 + 2 * 2)), 3, 64  # of a 32 px image, in ViT-Ti/16
    assert fpt["bytes_per_image"] == 2 * fpt_plus["bytes_per_image"] == 2 * 12 * heads * tokens * width * 2
    assert fpt["seconds"] > 0 and fpt["images_per_second"] > 0


def test_a_run_uses_what_was_preloaded_and_says_so(folder: Path) -> None:
    cache = json.loads((folder / "made.json").read_text())[0]["cache"]
    measured = records(folder / "results")["fpt_plus"]["measurements"]
    assert measured["preload"]["cache"] == cache and measured["preload"]["reused"]
    assert measured["images_per_second"]["preload"] == measured["preload"]["images_per_second"]


def test_record_and_cache_say_which_code_made_them(folder: Path) -> None:
    code = records(folder / "results")["fpt_plus"]["run"]["code"]
    assert (code["digest"], code["version"]) == (code_digest(TRAINS), "0.1.0")
    assert code["method_digest"] == code_digest(method_files("methods.side.fpt_plus"))
    (row,) = listed(folder)
    description = json.loads(read_sealed(folder / ".cache" / "features" / row["cache"] / "cache.json"))
    assert description["key"]["code"] == code_digest((*EXTRACTS, *method_files("methods.side.fpt")))
    assert row["code"] == description["key"]["code"][:8]


def listed(folder: Path) -> list[dict[str, Any]]:
    ended = finish_inside(folder, "list", "caches", "--format", "json")
    assert ended.returncode == 0, ended.stderr
    return list(json.loads(ended.stdout))


def test_list_shows_size_age_and_users(folder: Path) -> None:
    (row,) = listed(folder)
    (record,) = records(folder / "results").values()
    assert row["state"] == "complete" and row["dataset"] == "images" and row["storage"] == "float16"
    assert (row["res"], row["layers"], row["backbone"]) == (32, 12, "vit_tiny_patch16_224")
    assert row["used_by"] == record["run_id"]
    assert row["mib"] > 0 and 0 <= row["age_days"] < 1


def test_clean_removes_what_was_asked_for(folder: Path) -> None:
    (row,) = listed(folder)
    for options in (["--unused"], ["--older-than", "1"]):
        ended = finish_inside(folder, "clean", "caches", *options)
        assert (ended.returncode, ended.stdout) == (0, "") and "0 caches" in ended.stderr
    ended = finish_inside(folder, "clean", "caches", "--dry-run")
    assert ended.stdout.split() == [row["cache"]] and "would be removed" in ended.stderr
    ended = finish_inside(folder, "clean", "caches", "no-such")
    assert ended.returncode == 2 and "cache must be one of" in ended.stderr
    root = folder / ".cache" / "features"
    with held_lock(root / ".leases" / row["cache"].partition("-")[0], lambda: None):
        removed, left = remove_caches(root, stored_caches(root, {}))
        assert (removed, [cache.folder.name for cache in left]) == ([], [row["cache"]])
    ended = finish_inside(folder, "clean", "caches", row["cache"])
    assert ended.returncode == 0 and ended.stdout.split() == [row["cache"]]
    assert listed(folder) == []


def test_methods_without_features_cannot_be_preloaded(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    ended = finish_inside(tmp_path, "preload", "--methods", "lora", *TINY)
    assert ended.returncode == 2
    assert "methods must include one whose features can be preloaded" in ended.stderr
