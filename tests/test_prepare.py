"""bench.py prepare on tiny raw trees of all eight datasets: what comes out, in any packing, and in training."""

import hashlib
import json
import shutil
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import raw_trees
from bench_process import TINY, records
from inside import finish_inside
from PIL import Image
from prepared_trees import about, contents, prepare, rows
from raw_trees import BUILDERS, EXPECTED, zip_tree

import bench
from benchmarks.data.dataset import open_dataset
from benchmarks.suite.options import SuiteOptions
from benchmarks.suite.plan import make_plan
from benchmarks.suite.run import Run
from benchmarks.training.clock import Clock
from datasets import DATASETS


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All eight, prepared once."""
    folder = tmp_path_factory.mktemp("eight")
    for name, build in BUILDERS.items():
        build(folder / "raw" / name)
        assert prepare(name, folder / "raw" / name, folder / "data", "--allow-incomplete") == 0
    return folder


@pytest.mark.parametrize("name", BUILDERS)
def test_each_dataset_comes_out_complete_and_without_leaks(prepared: Path, name: str) -> None:
    root, listed = prepared / "data" / name, rows(prepared / "data" / name)
    classes, num_excluded = EXPECTED[name]
    assert Counter(row["class"] for row in listed) == classes
    assert len(about(root)["excluded"]) == num_excluded
    files = {path.relative_to(root).as_posix() for path in root.glob("*/*/*")}
    assert files == {row["path"] for row in listed}
    order = (root / "classes.txt").read_text().splitlines()
    assert order == [*(["# ordered"] if name in ("messidor2", "ddr") else []), *DATASETS[name].classes]
    assert all(row["path"].split("/")[:2] == [row["split"], row["class"]] for row in listed)
    splits = defaultdict(set)
    for row in listed:
        splits[row["group"]].add(row["split"])
        splits[row["pixels"]].add(row["split"])
    assert all(len(names) == 1 for names in splits.values())
    stems = [Path(row["path"]).stem for row in listed]
    assert len(set(stems)) == len(stems)
    for row in listed:
        with Image.open(root / row["path"]) as image:
            image.load()
        assert image.mode in ("L", "RGB")
        shown = f"{image.width}x{image.height}\n".encode() + image.convert("RGB").tobytes()
        assert hashlib.sha256(shown).hexdigest() == row["pixels"]
        assert (prepared / "raw" / name / row["source"].partition("!/")[0]).is_file()


@pytest.mark.parametrize("name", BUILDERS)
def test_each_dataset_opens_with_its_split(prepared: Path, name: str) -> None:
    dataset = open_dataset(name, prepared / "data", prepared / "cache")
    assert dataset.split_origin is not None
    kind = {"isic2018": "official", "ddr": "official"}.get(name, "ours")
    assert dataset.split_origin.kind == kind
    lines = [
        "\0".join((row["path"], row["split"], row["class"], row["group"])) for row in rows(prepared / "data" / name)
    ]
    digest = hashlib.sha256("".join(line + "\n" for line in sorted(lines)).encode()).hexdigest()
    assert dataset.split_origin.digest == digest == about(prepared / "data" / name)["split"]["digest"]
    assert sum(map(len, dataset.splits.values())) == sum(EXPECTED[name][0].values())


@pytest.mark.parametrize("name", BUILDERS)
def test_a_download_still_in_its_archive_comes_out_the_same(prepared: Path, tmp_path: Path, name: str) -> None:
    BUILDERS[name](tmp_path / "raw" / name)
    for folder in [folder for folder in (tmp_path / "raw" / name).iterdir() if folder.is_dir()]:
        zip_tree(folder, folder.with_suffix(".zip"))
    assert prepare(name, tmp_path / "raw", tmp_path / "data", "--allow-incomplete") == 0
    inside, outside = (contents(folder / "data" / name) for folder in (tmp_path, prepared))
    assert inside.pop("manifest.csv") != outside.pop("manifest.csv")  # names the archives
    assert inside == outside
    assert all(".zip!/" in row["source"] for row in rows(tmp_path / "data" / name))


def test_eyes_of_an_exam_stay_together_and_the_fellow_of_an_ungradable_one_stays(prepared: Path) -> None:
    pairs = (prepared / "raw/messidor2/messidor-2.csv").read_text().splitlines()[1:31]
    split = {Path(row["path"]).stem.lower(): row["split"] for row in rows(prepared / "data/messidor2")}
    lonely = 0
    for pair in pairs:
        eyes = [split.get(Path(name).stem.lower()) for name in pair.split(";")]
        lonely += None in eyes
        assert None in eyes or eyes[0] == eyes[1]
    assert lonely == 1
    assert [item["reason"] for item in about(prepared / "data/messidor2")["excluded"]] == ["ungradable"]


def test_official_splits_stay_and_the_twin_in_training_goes(prepared: Path) -> None:
    ddr = prepared / "data/ddr"
    assert all(f"/{row['split'].replace('val', 'valid')}/" in row["source"] for row in rows(ddr))
    reasons = Counter(item["reason"].partition(" to ")[0] for item in about(ddr)["excluded"])
    assert reasons == {"ungradable": 3, "identical": 1}
    assert {"id": "DDR-dataset/DR_grading/train/007-9999-000.jpg"}.items() <= about(ddr)["excluded"][-1].items()
    isic2016 = rows(prepared / "data/isic2016")
    assert {row["split"] for row in isic2016 if "Test" in row["source"]} == {"test"}
    assert {row["split"] for row in isic2016 if "Training" in row["source"]} == {"train", "val"}
    assert about(prepared / "data/isic2016")["split"]["parts"] == {
        "train": "official",
        "val": "ours",
        "test": "official",
    }


def test_lesions_are_the_groups_of_isic2018_and_the_unscored_image_goes(prepared: Path, tmp_path: Path) -> None:
    train = [row for row in rows(prepared / "data/isic2018") if row["split"] == "train"]
    assert len({row["group"] for row in train}) == 14
    assert not any("0035068" in row["path"] for row in rows(prepared / "data/isic2018"))
    raw_trees.isic2018(tmp_path / "raw", scored_only=True)
    assert prepare("isic2018", tmp_path / "raw", tmp_path / "data", "--allow-incomplete") == 0
    assert about(tmp_path / "data/isic2018")["excluded"] == []


def test_case_numbers_shared_by_classes_are_different_cases(prepared: Path) -> None:
    listed = rows(prepared / "data/mini_ddsm")
    assert {row["group"] for row in listed} == {f"{letter}_{case:04}" for letter in "ABC" for case in range(1, 5)}
    assert all(row["source"].endswith(".jpg") and "_1." in row["path"] for row in listed)


def test_only_labelled_breasts_are_taken(prepared: Path) -> None:
    listed = rows(prepared / "data/cmmd")
    both = {row["class"]: Path(row["path"]).name for row in listed if row["group"] == "D2-0002"}
    assert both == {"Malignant": "D2-0002_L_MLO.png", "Benign": "D2-0002_R_MLO.png"}
    single = [Path(row["path"]).name for row in listed if row["group"] == "D1-0001"]
    assert single == ["D1-0001_L_CC.png", "D1-0001_L_MLO.png"]
    assert {item["reason"] for item in about(prepared / "data/cmmd")["excluded"]} == {"breast without a label"}


def test_dicom_looks_as_in_a_viewer(prepared: Path) -> None:
    shown = {}
    for row in rows(prepared / "data/cmmd"):
        shown[Path(row["path"]).stem] = np.asarray(Image.open(prepared / "data/cmmd" / row["path"])).astype(int)
    np.testing.assert_array_equal(shown["D1-0001_L_CC"], raw_trees.pixels(5001, 40, 60, 1, "Benign")[..., 0])
    np.testing.assert_array_equal(shown["D1-0007_L_CC"], raw_trees.pixels(5021, 40, 60, 1, "Benign")[..., 0])
    deep = raw_trees.pixels(5015, 40, 60, 1, "Benign")[..., 0].astype(int) * 16
    np.testing.assert_allclose(shown["D1-0005_L_CC"], deep / 4095 * 255, atol=1)


def test_every_file_of_a_class_folder_becomes_an_image(prepared: Path) -> None:
    def digest(name: bytes) -> str:
        return hashlib.sha256(name).hexdigest()[:6]

    listed = {Path(row["path"]).name: row for row in rows(prepared / "data/covid")}
    assert {
        "covid_1-s2.0.png",
        "covid_ryct.2020200034.fig2.jpg",
        f"normal_scan-{digest(b'scan.jpg')}.jpg",
        f"normal_scan-{digest(b'scan.png')}.png",
    } <= set(listed)
    assert listed["normal_copy-of-another.jpg"]["group"] == listed["normal_IM-0115-0001.jpg"]["group"]
    with Image.open(prepared / "data/covid" / listed["virus_person9_virus_1.png"]["path"]) as rotated:
        assert rotated.size == (36, 48)


def test_a_second_time_there_is_nothing_to_do(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (prepared / "data/chncxr").rglob("*")}
    assert prepare("chncxr", prepared / "raw/chncxr", prepared / "data", "--allow-incomplete") == 0
    assert "already prepared in" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (prepared / "data/chncxr").rglob("*")} == before


@pytest.mark.parametrize("name", BUILDERS)
def test_each_prepared_dataset_trains(prepared: Path, tmp_path: Path, name: str) -> None:
    options = SuiteOptions(
        methods=("linear",), datasets=(name,), res=(32,), backbone="vit_tiny_patch16_224", weights="none", epochs=1,
        batch_size=4, preload="off", device=("cpu",), data_root=prepared / "data", cache=tmp_path,
    )  # fmt: skip
    planned = make_plan(options).runs[0]
    run = Run(planned.config, planned.places, planned.weights, Clock(), lambda *_, **__: None)
    run.execute()
    assert run.run["dataset"]["split"] == about(prepared / "data" / name)["split"]
    assert 0 <= run.measurements["test"]["auc"] <= 1


def test_prepared_datasets_train_and_their_records_name_the_split(prepared: Path, tmp_path: Path) -> None:
    options = [word for word in TINY if word not in ("--datasets", "images")]
    done = finish_inside(
        tmp_path, "--methods", "linear", "--datasets", "messidor2", *options, "--epochs", "1",
        "--data-root", str(prepared / "data"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = records(tmp_path / "results")["linear"]
    assert record["run"]["dataset"]["split"] == about(prepared / "data/messidor2")["split"]
    assert "Splits are ours, by exam (split " in (tmp_path / "results/tables/results.md").read_text()


@pytest.mark.parametrize("name", BUILDERS)
def test_an_archive_beside_what_was_unpacked_from_it_changes_nothing(prepared: Path, tmp_path: Path, name: str) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(prepared / "raw" / name, raw / "unpacked")
    with zipfile.ZipFile(raw / "all.zip", "w") as archive:
        for path in sorted((raw / "unpacked").rglob("*")):
            archive.write(path, path.relative_to(raw))
    assert prepare(name, raw, tmp_path / "data", "--allow-incomplete") == 0
    both, once = (contents(folder / "data" / name) for folder in (tmp_path, prepared))
    assert both.pop("manifest.csv") != once.pop("manifest.csv")
    assert both == once
    assert not any(row["source"].startswith("all.zip") for row in rows(tmp_path / "data" / name))


def test_all_downloads_may_lie_in_one_folder(prepared: Path, tmp_path: Path) -> None:
    for name in BUILDERS:
        assert prepare(name, prepared / "raw", tmp_path, "--allow-incomplete") == 0
        shown, alone = (contents(folder / name) for folder in (tmp_path, prepared / "data"))
        assert shown.pop("manifest.csv") != alone.pop("manifest.csv")
        assert shown == alone


def test_ham10000_serves_for_the_training_images_of_isic2018(prepared: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(prepared / "raw/isic2018", raw)
    for name in ("Training_GroundTruth.zip", "Training_LesionGroupings.csv", "Test_GroundTruth.zip"):
        (raw / f"ISIC2018_Task3_{name}").unlink()
    (raw / "ISIC2018_Task3_Training_Input").rename(raw / "HAM10000_images_part_1")
    train, test = ([row for row in rows(prepared / "data/isic2018") if row["split"] == s] for s in ("train", "test"))
    lines = [f"{row['group']}\t{Path(row['path']).stem}\t{row['class'].lower()}\thisto" for row in train]
    (raw / "HAM10000_metadata").write_text("\n".join(["lesion_id\timage_id\tdx\tdx_type", *lines]))
    lines = [f"{Path(row['path']).stem},{row['class'].lower()}" for row in test]
    (raw / "ISIC2018_Task3_Test_GroundTruth.csv").write_text("\n".join(["image_id,dx", *lines]))
    assert prepare("isic2018", raw, tmp_path / "data", "--allow-incomplete") == 0
    columns = ("path", "split", "class", "group", "pixels")
    first, second = (
        [[row[name] for name in columns] for row in rows(root / "isic2018")]
        for root in (prepared / "data", tmp_path / "data")
    )
    assert first == second


def test_flattened_and_nested_trees_are_found(prepared: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(prepared / "raw/isic2016/ISBI2016_ISIC_Part3_Test_Data", raw / "a/b/ISBI2016_ISIC_Part1_Test_Data")
    shutil.copytree(prepared / "raw/isic2016/ISBI2016_ISIC_Part3_Training_Data", raw, dirs_exist_ok=True)
    for part in ("Training", "Test"):
        shutil.copy(prepared / f"raw/isic2016/ISBI2016_ISIC_Part3_{part}_GroundTruth.csv", raw / "a")
    assert prepare("isic2016", raw, tmp_path / "data", "--allow-incomplete") == 0
    shown, before = (contents(folder / "isic2016") for folder in (tmp_path / "data", prepared / "data"))
    assert shown.keys() == before.keys()


def test_only_png_of_mini_ddsm_are_rescaled(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared / "raw/mini_ddsm/MINI-DDSM-Complete-PNG-16", tmp_path / "raw/MINI-DDSM-Complete-PNG-16")
    assert prepare("mini_ddsm", tmp_path / "raw", tmp_path / "data", "--allow-incomplete") == 0
    listed = rows(tmp_path / "data/mini_ddsm")
    assert len(listed) == 48
    with Image.open(tmp_path / "data/mini_ddsm" / listed[0]["path"]) as shown:
        with Image.open(tmp_path / "raw" / listed[0]["source"]) as stored:
            np.testing.assert_array_equal(np.asarray(shown), np.asarray(stored) // 257)
        assert shown.mode == "L"
    assert "DataWMask.xlsx is missing" in about(tmp_path / "data/mini_ddsm")["notes"][0]


def test_a_manifest_that_lies_is_refused(prepared: Path, tmp_path: Path) -> None:
    root = tmp_path / "chncxr"
    shutil.copytree(prepared / "data/chncxr", root)
    table, gone = root / "manifest.csv", next(root.glob("train/normal/*"))
    gone.rename(tmp_path / gone.name)
    with pytest.raises(ValueError, match=rf"must list the images there, got 0 more and 1 fewer: .*{gone.name}; put"):
        open_dataset("chncxr", tmp_path, tmp_path / "cache")
    (tmp_path / gone.name).rename(gone)
    lines = table.read_text()
    first = lines.splitlines()[1].split(",")
    table.write_text(lines.replace(f",{first[3]},", ",another patient,", 1))
    with pytest.raises(ValueError, match=r"must say of splits, classes and groups what it said when it was made, got"):
        open_dataset("chncxr", tmp_path, tmp_path / "cache")
    table.write_text(lines.replace("path,split", "path,part"))
    with pytest.raises(ValueError, match=r"manifest must have the columns path,split,class,group,source,pixels, got"):
        open_dataset("chncxr", tmp_path, tmp_path / "cache")
    (root / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest must be readable, got .*manifest.json.*with --overwrite"):
        open_dataset("chncxr", tmp_path, tmp_path / "cache")
    (root / "manifest.json").write_text('{"schema": 99}')
    with pytest.raises(ValueError, match=r"manifest must be of schema 1, got 99 in"):
        open_dataset("chncxr", tmp_path, tmp_path / "cache")
    damaged = about(prepared / "data/chncxr")
    damaged["split"]["kind"] = "mine"
    (root / "manifest.json").write_text(json.dumps(damaged))
    with pytest.raises(ValueError, match=r"\(split\.kind must be 'official', 'ours' or 'user', got 'mine'\); prepare"):
        open_dataset("chncxr", tmp_path, tmp_path / "cache")


def test_help_and_list_say_where_to_click(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["prepare", "-h"])
    shown = capsys.readouterr().out
    assert bench.main(["list", "datasets", "--format", "json"]) == 0
    listed = {row["dataset"]: row for row in json.loads(capsys.readouterr().out)}
    for name in BUILDERS:
        info = DATASETS[name]
        assert all(text in shown for text in (info.url, info.licence, info.citation, *info.download))
        assert listed[name]["source"] == info.url
    assert listed["isic2018"]["images"] == 10_015 + 193 + 1_511
    assert listed["isic2016"]["splits"] == "official train and test, val is ours"
