"""What a folder holds, as tables."""

from collections import Counter

import pandas as pd

from benchmarks.check.shortcuts import Told
from benchmarks.check.survey import Survey, class_key, expected_counts
from benchmarks.choices import SPLITS
from benchmarks.data.findings import UNCERTAIN, Findings

RESOLUTIONS = (224, 384, 512, 768, 1024)


def tables(found: Survey, told: Told) -> dict[str, pd.DataFrame]:
    """What the folder holds, as tables by name: images, splits, sizes, pixels and, where there are any, shortcuts.

    Args:
        found: What the folder holds.
        told: What `shortcuts.probes` gives.
    """
    everything = {
        "images": _image_table(found) if found.table is None else _finding_table(found, found.table),
        "splits": _split_table(found),
        "sizes": _size_table(found),
        "pixels": _pixel_table(found),
    }
    return everything | ({"shortcuts": _shortcut_table(found, told)} if told else {})


def _image_table(found: Survey) -> pd.DataFrame:
    """Readable images per class and split, and the class's share of all."""
    counts = Counter((file.label, file.split) for file in found.images)
    expected = expected_counts(found)
    rows = []
    for name in found.classes:
        per_split = {split: counts[class_key(name), split] for split in SPLITS}
        total = sum(per_split.values())
        share = round(100 * total / max(1, len(found.images)), 1)
        rows.append(
            {"class": name, **per_split, "all": total, "expected": expected.get(class_key(name)), "percent": share}
        )
    frame = pd.DataFrame(rows, columns=["class", *SPLITS, "all", "expected", "percent"])
    return frame.astype({"expected": "Int64"})


def _finding_table(found: Survey, table: Findings) -> pd.DataFrame:
    """What the table says of the readable images of each split, by finding; and the share of known ones with it."""
    rows: list[dict[str, object]] = []
    for place, name in enumerate(table.names):
        for split in SPLITS:
            said = Counter(file.values[place] for file in found.images if file.split == split)
            known = said[1] + said[0]
            numbers = {"with": said[1], "without": said[0], "uncertain": said[UNCERTAIN], "unknown": said[None]}
            rows.append({"finding": name, "split": split} | numbers | {"percent": _percent(said[1], known)})
    return pd.DataFrame(rows)


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 1) if whole else None


def _split_table(found: Survey) -> pd.DataFrame:
    """Images of each split, its faulty files, and how many times its largest class is larger than its smallest.

    Of findings images with none that is known to be there, in the place of classes.
    """
    rows: list[dict[str, object]] = []
    for split in SPLITS:
        images = [file for file in found.images if file.split == split]
        faulty = sum(file.split == split and file.facts is None for file in found.files)
        row: dict[str, object] = {"split": split, "images": len(images), "faulty": faulty}
        if found.table is None:
            counts = Counter(file.label for file in images)
            ratio = round(max(counts.values()) / min(counts.values()), 1) if counts else None
            row |= {"classes": len(counts), "imbalance": ratio}
        else:
            row |= {"with_none": sum(1 not in file.values for file in images)}
        rows.append(row)
    return pd.DataFrame(rows)


def _size_table(found: Survey) -> pd.DataFrame:
    """Sizes in pixels, and how many images would be enlarged at each resolution since a side of theirs is shorter."""
    rows = []
    for split in (*SPLITS, "all"):
        sizes = pd.DataFrame(
            [
                (file.facts.width, file.facts.height)
                for file in found.images
                if file.facts and split in (file.split, "all")
            ],
            columns=["width", "height"],
        )
        row: dict[str, object] = {"split": split, "images": len(sizes)}
        for name in ("width", "height"):
            for measure in ("min", "median", "max"):
                row[f"{name}_{measure}"] = None if sizes.empty else int(sizes[name].agg(measure))
        row |= {f"below_{side}": int((sizes.min(axis=1) < side).sum()) for side in RESOLUTIONS}
        rows.append(row)
    frame = pd.DataFrame(rows)
    return frame.astype({name: "Int64" for name in frame.columns if name != "split"})


def _pixel_table(found: Survey) -> pd.DataFrame:
    """How the files of a class, or with a finding, store a pixel (PIL's modes): what goes with it gives it away."""
    kind = _kind(found)
    rows = [
        {kind: name, "mode": mode, "images": number}
        for name, files in found.showing(found.images).items()
        for mode, number in sorted(Counter(file.facts.mode for file in files if file.facts).items())
    ]
    return pd.DataFrame(rows, columns=[kind, "mode", "images"])


def _shortcut_table(found: Survey, told: Told) -> pd.DataFrame:
    """AUC of each class or finding from what is no disease, see `shortcuts.probes`."""
    names = [name for name in found.classes if any(name in aucs for aucs in told.values())]
    rows = [{_kind(found): name} | {what: round(aucs[name], 3) for what, aucs in told.items()} for name in names]
    return pd.DataFrame(rows)


def _kind(found: Survey) -> str:
    return "class" if found.table is None else "finding"
