"""bench.py prepare huggingface: image folders, tables of metadata and parquet files become the same dataset."""

import csv
import json
import shlex
import shutil
import sys
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from own_folders import noise
from prepared_trees import prepare, rows

import bench
from benchmarks.data.dataset import open_dataset
from benchmarks.images.decode import pixel_digest

CLASSES = ("benign", "malignant")
SPLITS = {"train": "train", "validation": "val", "test": "test"}
COUNT = 4  # images of a class and split


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def each() -> list[tuple[str, str, int]]:
    """Split as Hugging Face calls it, class, and the seed of the image."""
    return [
        (split, name, 100 * place + 10 * label + number)
        for place, split in enumerate(SPLITS)
        for label, name in enumerate(CLASSES)
        for number in range(COUNT)
    ]


def class_folders(root: Path, images: Sequence[tuple[str, str, int]]) -> Path:
    """Names repeat in every folder."""
    for split, name, seed in images:
        place = root / split / name / f"{seed % 10}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        noise(seed).save(place)
    return root


def metadata_csv(root: Path, images: Sequence[tuple[str, str, int]], column: str = "label") -> Path:
    """A table in the folder of each split."""
    for split in SPLITS:
        (root / split / "files").mkdir(parents=True)
        for part, _, seed in images:
            if part == split:
                noise(seed).save(root / split / f"files/{seed}.png")
        with (root / split / "metadata.csv").open("w", newline="") as file:
            lines = [[f"files/{seed}.png", name, "x"] for part, name, seed in images if part == split]
            csv.writer(file).writerows([["file_name", column, "text"], *lines])
    return root


def metadata_jsonl(root: Path, images: Sequence[tuple[str, str, int]]) -> Path:
    """One table for all splits."""
    lines = []
    for split, name, seed in images:
        (root / split).mkdir(parents=True, exist_ok=True)
        noise(seed).save(root / split / f"{seed}.png")
        lines.append(json.dumps({"file_name": f"{split}/{seed}.png", "label": name, "boxes": [1, 2]}))
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return root


def png(seed: int) -> bytes:
    made = BytesIO()
    noise(seed).save(made, "PNG")
    return made.getvalue()


def parquet(
    path: Path, images: Sequence[tuple[str, str, int]], named: bool = True, column: str = "label", **more: Any
) -> Path:
    """As `datasets` writes it: groups of rows, and features in the metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels: list[Any] = [CLASSES.index(name) if named else name for _, name, _ in images]
    columns = {"image": [{"bytes": png(seed), "path": f"{seed}.png"} for *_, seed in images], column: labels}
    features = {"image": {"_type": "Image"}} | (
        {column: {"names": list(CLASSES), "_type": "ClassLabel"}} if named else {}
    )
    schema = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns | more).replace_schema_metadata(schema), path, row_group_size=3)
    return path


def parquet_files(root: Path, images: Sequence[tuple[str, str, int]]) -> Path:
    """Training images in two files."""
    for split in SPLITS:
        ours = [image for image in images if image[0] == split]
        shards = [ours[::2], ours[1::2]] if split == "train" else [ours]
        for number, shard in enumerate(shards if ours else []):
            parquet(root / "data" / f"{split}-{number:05}-of-{len(shards):05}.parquet", shard)
    return root


def one_parquet(root: Path, images: Sequence[tuple[str, str, int]]) -> Path:
    return parquet(root / "all.parquet", images, split=[split for split, _, _ in images])


def zipped(root: Path, images: Sequence[tuple[str, str, int]]) -> Path:
    class_folders(root / "tree", images)
    with zipfile.ZipFile(root / "all.zip", "w") as archive:
        for path in (root / "tree").rglob("*.png"):
            archive.write(path, path.relative_to(root / "tree"))
    shutil.rmtree(root / "tree")
    return root


FORMS = (class_folders, metadata_csv, metadata_jsonl, parquet_files, one_parquet, zipped)


@pytest.mark.parametrize("form", FORMS, ids=[form.__name__ for form in FORMS])
def test_each_form_becomes_the_same_dataset(form: Any, folder: Path) -> None:
    raw = form(folder / "own", each())
    assert prepare("huggingface", raw, folder / "data") == 0
    name = "all" if raw.is_file() else "own-prepared"
    expected = {pixel_digest(noise(seed)): (SPLITS[split], label) for split, label, seed in each()}
    assert {row["pixels"]: (row["split"], row["class"]) for row in rows(folder / "data" / name)} == expected
    dataset = open_dataset(name, folder / "data", folder / "cache")
    assert dataset.classes == CLASSES and not dataset.ordered


def test_classes_of_a_parquet_file_keep_their_order_and_may_be_texts(folder: Path) -> None:
    import pyarrow.parquet as pq

    path = one_parquet(folder / "own", each())
    table = pq.read_table(path)
    metadata = table.schema.metadata[b"huggingface"].replace(b"benign", b"zebra")
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), path)
    assert prepare("huggingface", path, folder / "data") == 0
    assert open_dataset("all", folder / "data", folder / "cache").classes == ("zebra", "malignant")
    parquet(folder / "texts.parquet", each(), named=False, split=[split for split, _, _ in each()])
    assert prepare("huggingface", folder / "texts.parquet", folder / "data") == 0
    assert open_dataset("texts", folder / "data", folder / "cache").classes == CLASSES


def test_the_column_of_the_labels_may_be_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = metadata_csv(folder / "own", each(), column="finding")
    refused(capsys, raw, "table must have one column of label", "name it with --label COLUMN")
    assert prepare("huggingface", raw, folder / "data", "--label", "finding") == 0
    assert {row["class"] for row in rows(folder / "data/own-prepared")} == set(CLASSES)
    assert prepare("huggingface", raw, folder / "data", "--label", "text") == 2
    parquet(folder / "one.parquet", each(), column="Finding", split=[split for split, _, _ in each()])
    assert prepare("huggingface", folder / "one.parquet", folder / "data", "--label", "Finding") == 0
    assert open_dataset("one", folder / "data", folder / "cache").classes == CLASSES


def refused(capsys: pytest.CaptureFixture[str], raw: Path, *expected: str, options: tuple[str, ...] = ()) -> str:
    """One line, and no dataset."""
    capsys.readouterr()
    assert prepare("huggingface", raw, Path("data"), *options) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("bench.py: ") and not {raw.stem, f"{raw.name}-prepared"} & {
        path.name for path in Path("data").glob("*")
    }
    for words in expected:
        assert words in line
    return line


@pytest.mark.parametrize("form", FORMS, ids=[form.__name__ for form in FORMS])
def test_without_validation_the_line_names_split(form: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = form(folder / "own", [image for image in each() if image[0] != "validation"])
    if form is metadata_csv:
        shutil.rmtree(raw / "validation")
    refused(capsys, raw, "splits must be train, validation and test, got train, test in", "python bench.py split ")


def test_the_command_that_is_named_makes_validation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = class_folders(Path("own"), [image for image in each() if image[0] != "validation"])
    line = refused(capsys, raw)
    command = shlex.split(line.split("python bench.py ")[1].split(" makes them")[0])
    assert command == ["split", "own", "--group-pattern", "REGEX"]
    assert bench.main([*command[:3], r"(\d)\.", "--val", "0.3", "--dry-run"]) == 0


def test_images_of_a_parquet_file_may_be_split_by_a_file(folder: Path) -> None:
    parquet(folder / "own.parquet", each())
    lines = [f"{seed},{SPLITS[split]}" for split, _, seed in each()]
    (folder / "split.csv").write_text("\n".join(["id,split", *lines]) + "\n")
    assert prepare("huggingface", Path("own.parquet"), folder / "data", "--split-file", "split.csv") == 0
    expected = {pixel_digest(noise(seed)): SPLITS[split] for split, _, seed in each()}
    assert {row["pixels"]: row["split"] for row in rows(folder / "data/own")} == expected


def test_what_is_wrong_with_folders_and_metadata(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, Path("absent"), "must be a folder of images or of parquet files")
    raw = class_folders(Path("own"), each())
    refused(capsys, raw, "--label must be a column of metadata.csv", options=("--label", "x"))
    noise(999).save(raw / "train/loose.png")
    refused(capsys, raw, "image must lie in a folder of its class, got 'train/loose.png'")
    raw = metadata_jsonl(Path("lines"), each())
    whole = (raw / "metadata.jsonl").read_text()
    for damaged, words in {
        whole + "[1]\n": "must be an object of texts and numbers on each line, got line 25",
        whole.replace('"file_name"', '"other"'): "metadata must have a column file_name",
        whole + whole.splitlines()[0] + "\n": "must list each image once, got 'train/0.png' twice",
        whole.replace('"label": "benign"', '"label": ["benign"]', 1): "label must be able to name a folder, got ''",
        whole.replace("train/0.png", "train/absent.png"): "1 of 24 images missing: train/absent.png",
        whole.replace("train/0.png", "../train/0.png"): "1 of 24 images missing: ../train/0.png",
        "".join(whole.splitlines(keepends=True)[1:]): "must all be in its label table, got 1 that are not: train/0.png",
    }.items():
        (raw / "metadata.jsonl").write_text(damaged)
        refused(capsys, raw, words)


def test_what_is_wrong_with_parquet_files(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = one_parquet(folder / "own", each())
    table = pq.read_table(path)
    splits = table["split"]

    def changed(**columns: Any) -> Path:
        pq.write_table(pa.table({**dict(zip(table.column_names, table.columns, strict=True)), **columns})
                       .replace_schema_metadata(table.schema.metadata), "changed.parquet")  # fmt: skip
        return Path("changed.parquet")

    Path("text.parquet").write_text("no parquet")
    refused(capsys, Path("text.parquet"), "parquet file must be readable, got 'text.parquet'")
    refused(capsys, changed(label=[-1] * len(splits)), "label must be 0 to 1 (benign, malignant), got -1")
    refused(capsys, changed(image=["x"] * len(splits)), "must have one column of images", "got none among image, label")
    twice = changed(mask=table["image"], scan=table["image"])
    assert prepare("huggingface", twice, folder / "data") == 0
    bare = [{"bytes": None, "path": "x.png"}] * len(splits)
    pq.write_table(table.set_column(0, "image", pa.array(bare, table["image"].type)), "bare.parquet")
    refused(capsys, Path("bare.parquet"), "image must be in the parquet file, got none in row ")
    for place in ("one", "two"):
        parquet(Path("configs") / place / "train-0.parquet", each())
    refused(capsys, Path("configs"), "must be of one configuration, got one, two")
    parquet(Path("demo/all.parquet"), each(), split=splits)
    refused(capsys, Path("demo/all.parquet").rename("demo.parquet"), "must be none that is known")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(capsys, path, "which is not installed: pip install pyarrow")
    raw = class_folders(Path("without"), each())
    assert prepare("huggingface", raw, folder / "data") == 0
