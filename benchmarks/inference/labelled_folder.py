"""Labelled images that a model was not trained on, with the classes or findings that the model knows."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.choices import not_one_of
from benchmarks.data.dataset import list_folders, list_images
from benchmarks.data.hashes import content_hashes
from benchmarks.data.manifest import has_manifest, read_entries
from benchmarks.errors import MissingError, UserError
from benchmarks.names import printable
from benchmarks.storage.files import read_regular, why_no_file
from benchmarks.storage.plain_yaml import read_yaml

TEST = "test"

ClassMap = dict[str, str | None]  # a class of the model for each class folder, None where it is left out


@dataclass(frozen=True)
class LabelledFolder:
    """Images of another folder, by class and path, or of a table of findings, by path.

    Attributes:
        root: The folder.
        names: Paths of the images, relative to it.
        labels: What predictions say of them: `label`, a class, or `target_<finding>`, 0, 1 or missing, of each finding
            of the model.
        groups: Of each image (patient, lesion, ...), where a manifest of `prepare`, or the table, says them.
        counts: Images by class, or with each finding.
        class_map: As it was given.
        digest: Hex SHA-256 over class, path below the class folders' parent, and content of every image; of findings
            over these, and what is said of each in the place of the class.
        title: The folder's name, or the table's where that has one of its own.
        findings: What is known of each finding, for records; None of classes.
    """

    root: Path
    names: list[str]
    labels: dict[str, Any]
    groups: list[str] | None
    counts: dict[str, int]
    class_map: ClassMap | None
    digest: str
    title: str
    findings: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return printable(self.title)

    def as_json(self) -> dict[str, Any]:
        """For records."""
        found = {"name": self.name, "digest": self.digest, "counts": self.counts, "class_map": self.class_map}
        return found | ({"findings": self.findings} if self.findings else {})


def read_class_map(path: Path) -> ClassMap:
    """Reads a file with a line `folder: class` for each class folder; a folder without a class is left out.

    Of a table of findings `column: finding`.

    Raises:
        UserError: It is no such file.
    """
    rule = "class map must be a text file with a line 'folder: class' for each class folder"
    try:
        found = read_yaml(read_regular(path).decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{rule}, got {str(path)!r}; {why_no_file(path)}") from error
    except ValueError as error:
        raise UserError(f"{rule}, got {str(path)!r} ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict) or not found:
        raise UserError(f"{rule}, got another content in {str(path)!r}")
    for folder, name in found.items():
        if not isinstance(folder, str) or not isinstance(name, str | None):
            raise UserError(f"{rule}, got {folder!r}: {name!r} in {str(path)!r}; put names that YAML reads in quotes")
    return found


def open_labelled(root: Path, classes: Sequence[str], class_map: ClassMap | None, cache: Path) -> LabelledFolder:
    """Lists and hashes the images of a folder: `<class>/<images>`, or the same below `test`.

    Args:
        root: The folder.
        classes: Of the model, in its order.
        class_map: Which class each class folder is; None where they are named alike.
        cache: Content hashes are kept there.

    Raises:
        UserError: Its classes are not those of the model, the map is not about them, or a class has no image.
    """
    if not root.is_dir():
        raise MissingError(f"data must be a folder of class folders, got {str(root)!r}; there is no such folder")
    place = root / TEST if (root / TEST).is_dir() and TEST not in (class_map or classes) else root
    mapped = _mapped(place, classes, class_map)
    prefix = f"{TEST}/" if place != root else ""
    images = sorted(
        (classes.index(name), path)
        for folder, name in mapped.items()
        if name is not None
        for path in list_images(root, f"{prefix}{folder}")
    )
    labels, names = [label for label, _ in images], [path for _, path in images]
    counted = Counter(labels)
    counts = {name: counted[label] for label, name in enumerate(classes)}
    absent = [name for name, number in counts.items() if not number]
    if absent:
        raise UserError(
            f"data must hold images of every class of the model, got none of {', '.join(absent)} in {str(place)!r}: an "
            "AUC over other classes is not to be compared with that of the test split"
        )
    hashes = content_hashes(root, names, cache)
    total = hashlib.sha256()
    for label, name in images:
        total.update("\0".join([classes[label], name.removeprefix(prefix), hashes[name]]).encode() + b"\n")
    said = {"label": [classes[label] for label in labels]}
    groups, name = _groups(root, names), root.resolve().name
    return LabelledFolder(root, names, said, groups, counts, class_map, total.hexdigest(), name)


def _mapped(place: Path, classes: Sequence[str], class_map: ClassMap | None) -> ClassMap:
    folders = list_folders(place)
    if class_map is None:
        if set(folders) != set(classes):
            raise UserError(
                f"class folders must be named as the classes of the model ({', '.join(classes)}), got "
                f"{', '.join(folders) or 'none'} in {str(place)!r}; say with --class-map FILE which class each is, a "
                "line 'folder: class' each"
            )
        return {name: name for name in folders}
    unsaid = [name for name in folders if name not in class_map]
    if unsaid:
        raise UserError(
            f"class map must name every class folder in {str(place)!r}, got none of {', '.join(unsaid)}; a line "
            "'folder:' without a class leaves its images out"
        )
    for folder, name in class_map.items():
        if folder not in folders:
            raise UserError(not_one_of(f"folder in the class map of {str(place)!r}", folders, folder))
        if name is not None and name not in classes:
            raise UserError(not_one_of(f"class of {folder!r} in the class map", classes, name))
    return class_map


def _groups(root: Path, names: Sequence[str]) -> list[str] | None:
    if not has_manifest(root):
        return None
    groups: Mapping[str, str] = {entry.path: entry.group for entry in read_entries(root)}
    lost = [name for name in names if name not in groups]
    if lost:
        raise UserError(
            f"manifest of {str(root)!r} must list the images there, got none of {len(lost)}, {lost[0]!r} first; "
            "prepare the dataset again with --overwrite"
        )
    return [groups[name] for name in names]
