"""Links in datasets and downloads: followed, or refused with what to do; run, check and prepare agree."""

import json
from pathlib import Path

import pytest
import raw_trees
from tiny_images import make_images

import bench
from benchmarks.data.dataset import Dataset, open_dataset
from benchmarks.errors import UserError
from benchmarks.raw.files import scan


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images")


def opened(root: Path) -> Dataset:
    return open_dataset(str(root), root.parent / "data", root.parent / "cache")


def paths(dataset: Dataset) -> set[str]:
    return {sample.path for samples in dataset.splits.values() for sample in samples}


def checked(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
    """Images that `bench.py check` counts, and its problems by place."""
    capsys.readouterr()
    bench.main(["check", str(root), "--cache", str(root.parent / "cache"), "--format", "json"])
    tables = json.loads(capsys.readouterr().out)
    problems = {row["where"]: row["detail"] for row in tables["findings"] if row["level"] == "problem"}
    return sum(row["all"] for row in tables["images"]), problems


def move_away(folder: Path, place: Path) -> None:
    """Moves a folder to another place and leaves a link to it behind."""
    folder.rename(place)
    folder.symlink_to(place, target_is_directory=True)


@pytest.mark.parametrize("inside", ["train/bright", "train", "."], ids=["class", "split", "root"])
def test_folders_behind_links_count_as_if_they_lay_there(root: Path, inside: str) -> None:
    before = opened(root)
    move_away(root / inside, root.parent / "elsewhere")
    assert (opened(root).digest, paths(opened(root))) == (before.digest, paths(before))


def test_files_behind_a_linked_sub_folder_are_not_left_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = opened(root)
    far = root.parent / "far"
    far.mkdir()
    for number in (0, 1):
        (root / f"train/bright/{number}.png").rename(far / f"{number}.png")
    (root / "train/bright/more").symlink_to(far, target_is_directory=True)
    assert paths(opened(root)) == paths(before) - {"train/bright/0.png", "train/bright/1.png"} | {
        "train/bright/more/0.png",
        "train/bright/more/1.png",
    }
    assert checked(root, capsys) == (len(paths(before)), {})


@pytest.mark.parametrize("target", [".", "..", "../../..", "../../../images"])
def test_a_link_back_to_where_it_lies_is_refused(root: Path, capsys: pytest.CaptureFixture[str], target: str) -> None:
    (root / "train/bright/again").symlink_to(target, target_is_directory=True)
    with pytest.raises(
        UserError, match=r"link in a dataset must lead to an image or a folder, got .*bright/again'"
    ) as e:
        opened(root)
    assert str(e.value).endswith(f"which is a link to {target!r}, a folder that it lies in itself; mend or remove it")
    assert checked(root, capsys)[1] == {
        "train/bright/again": f"is a link to {target!r}, a folder that it lies in itself; replace or remove it"
    }


def test_two_folders_that_link_to_each_other_are_refused(root: Path) -> None:
    one, other = (root.parent / name for name in ("one", "other"))
    for folder, next_one in ((one, other), (other, one)):
        folder.mkdir()
        (folder / "next").symlink_to(next_one, target_is_directory=True)
    (root / "val/dark/one").symlink_to(one, target_is_directory=True)
    with pytest.raises(UserError, match=r"val/dark/one/next/next', which is a link to .*a folder that it lies in"):
        opened(root)


@pytest.mark.parametrize("inside", ["train/dark/gone.png", "train/dark/gone", "train/gone"])
def test_a_dangling_link_says_what_to_do(root: Path, capsys: pytest.CaptureFixture[str], inside: str) -> None:
    for split in ("train", "val", "test") if inside == "train/gone" else ("train",):  # a class: else it lacks elsewhere
        (root / inside.replace("train", split)).symlink_to("/no/such/place")
    with pytest.raises(
        UserError, match=rf"got .*{inside}', which is a link to '/no/such/place', which is not there; mend"
    ):
        opened(root)
    detail = "is a link to '/no/such/place', which is not there; replace or remove it"
    assert checked(root, capsys)[1][inside] == detail


def test_a_split_or_a_dataset_behind_a_dangling_link_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    move_away(root / "val", root.parent / "val")
    (root.parent / "val").rename(root.parent / "moved")
    with pytest.raises(UserError, match=r"images/val', which is a link to .*/val', which is not there; mend or remove"):
        opened(root)
    assert checked(root, capsys)[1]["val"].endswith("/val', which is not there; mend or remove it")
    (root.parent / "link").symlink_to("/no/such/place")
    (root.parent / "data").mkdir(exist_ok=True)
    (root.parent / "data/ddr").symlink_to("/no/such/place")
    for name in (str(root.parent / "link"), "ddr"):
        with pytest.raises(UserError, match="link to '/no/such/place', which is not there"):
            open_dataset(name, root.parent / "data", root.parent / "cache")


def test_a_download_behind_links_is_read_once_and_a_broken_link_is_refused(tmp_path: Path) -> None:
    raw_trees.chncxr(tmp_path / "raw")
    before = [(file.name, file.size) for file in scan(tmp_path / "raw").files]
    move_away(tmp_path / "raw", tmp_path / "disk")
    (tmp_path / "twice").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "both").mkdir()
    for name in ("raw", "twice"):
        (tmp_path / "both" / name).symlink_to(tmp_path / "disk", target_is_directory=True)
    for root in ("raw", "both"):
        assert sorted((file.name, file.size) for file in scan(tmp_path / root).files) == sorted(before)
    for name, why in (("/no/such/place", "which is not there"), ("..", "a folder that it lies in itself")):
        link = tmp_path / "disk" / "link"
        link.symlink_to(name)
        with pytest.raises(
            UserError, match=rf"link in a download must lead to a file or a folder, got .*{why}; mend or"
        ):
            scan(tmp_path / "disk")
        link.unlink()
