"""Splits by group: shares, strata, duplicates, the user's own."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import raw_trees
from hypothesis import given, settings
from hypothesis import strategies as st

import bench
from benchmarks.prepare.splits import SHARES, Assignment, Item, assign


def make_items(groups: list[list[int]], split: str | None = None) -> list[Item]:
    """One item for each label of each group, all of different pixels."""
    return [
        Item(f"{number}-{index}", label, f"g{number}", f"p{number}-{index}", split)
        for number, labels in enumerate(groups)
        for index, label in enumerate(labels)
    ]


def test_shares_hold_for_each_class_at_the_size_of_messidor2() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(range(5), (1017, 270, 347, 75, 35))
    rng.shuffle(labels)
    items = make_items([[int(first), int(first if same else second)] for first, second, same in zip(
        labels[::2], labels[1::2], rng.random(872) < 0.8, strict=True)])  # fmt: skip
    splits = assign(items, {}, 0).splits
    total = Counter(item.label for item in items)
    for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        counted = Counter(item.label for item in items if splits[item.key] == split)
        for label, number in total.items():
            assert counted[label] == pytest.approx(number * share, abs=max(3, 0.06 * number))
    for number in range(872):
        assert splits[f"{number}-0"] == splits[f"{number}-1"]


def test_the_seed_decides_and_the_order_does_not() -> None:
    items = make_items([[0]] * 40 + [[1, 1]] * 40)
    first = assign(items, {}, 0).splits
    assert assign(items[::-1], {}, 0).splits == first
    assert assign(items, {}, 1).splits != first


def test_three_groups_are_enough_for_a_class() -> None:
    assert set(assign(make_items([[0], [0], [0]]), {}, 3).splits.values()) == {"train", "val", "test"}


def sizes_and_groups(made: Assignment, label: int, items: list[Item]) -> dict[str, tuple[int, int]]:
    """Images of a class and their groups, by split."""
    inside = [item for item in items if item.label == label]
    splits = {split: [item for item in inside if made.splits[item.key] == split] for split in SHARES}
    return {split: (len(found), len({item.group for item in found})) for split, found in splits.items()}


def test_groups_of_60_50_60_images_and_250_single_ones_leave_no_split_to_one_patient() -> None:
    items = make_items([[0] * size for size in (60, 50, 60, *[1] * 250)])
    found = sizes_and_groups(assign(items, {}, 0), 0, items)
    assert {split: images for split, (images, _) in found.items()} == {"train": 294, "val": 42, "test": 84}
    assert all(groups >= 0.5 * 253 * SHARES[split] - 1 for split, (_, groups) in found.items())


SIZES = st.lists(st.integers(1, 8) | st.integers(1, 60), min_size=3, max_size=60)
CLASSES = st.lists(SIZES | st.builds(lambda sizes: [*sizes, *[1] * 150], SIZES), min_size=1, max_size=3)


@settings(max_examples=60)
@given(classes=CLASSES, seed=st.integers(0, 3))
def test_each_split_has_groups_of_each_class_and_its_share_of_images_where_groups_allow(
    classes: list[list[int]], seed: int
) -> None:
    items = make_items([[label] * size for label, sizes in enumerate(classes) for size in sizes])
    made = assign(items, {}, seed)
    assert len(made.splits) == len(items)
    assert len({(item.group, made.splits[item.key]) for item in items}) == sum(map(len, classes))
    for label, sizes in enumerate(classes):
        for split, (images, groups) in sizes_and_groups(made, label, items).items():
            assert groups >= max(1, SHARES[split] * len(sizes) // 2)
            if 5 * max(sizes) <= SHARES["val"] * sum(sizes):  # no group is a fifth of the smallest split
                assert images == pytest.approx(SHARES[split] * sum(sizes), abs=max(sizes) + 1)


@given(groups=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=40))
def test_groups_of_several_classes_stay_whole(groups: list[list[int]]) -> None:
    items = make_items(groups)
    splits = assign(items, {}, 0).splits
    assert splits.keys() == {item.key for item in items}
    for number, labels in enumerate(groups):
        assert len({splits[f"{number}-{index}"] for index in range(len(labels))}) == 1


@given(sizes=st.lists(st.integers(1, 90), min_size=2, max_size=60), taken=st.integers(1, 20))
def test_official_splits_are_untouched(sizes: list[int], taken: int) -> None:
    items = make_items([[0] * size for size in sizes], "train")
    items += [Item(f"t{n}", 0, f"t{n}", f"t{n}", "test") for n in range(taken)]
    splits = assign(items, {"train": "official", "test": "official"}, 0).splits
    assert {key for key, split in splits.items() if split == "test"} == {f"t{n}" for n in range(taken)}
    assert {"train", "val"} <= set(splits.values())


def test_validation_is_carved_from_training_and_test_stays() -> None:
    items = make_items([[0]] * 80, "train") + [Item(f"t{n}", 0, f"t{n}", f"t{n}", "test") for n in range(20)]
    splits = assign(items, {"train": "official", "test": "official"}, 0).splits
    assert Counter(splits.values()) == {"train": 70, "val": 10, "test": 20}
    assert all(splits[f"t{n}"] == "test" for n in range(20))


def test_identical_images_join_their_groups_in_chains() -> None:
    items = make_items([[0, 0]] * 30)
    shared = {"1-1": "x", "2-0": "x", "2-1": "y", "3-0": "y", "7-0": "z", "8-0": "z"}
    made = assign([item._replace(pixels=shared.get(item.key, item.pixels)) for item in items], {}, 0)
    assert {made.groups[f"{number}-0"] for number in (1, 2, 3)} == {"g1"}
    assert made.groups["8-1"] == "g7"
    by_group = defaultdict(set)
    for key, group in made.groups.items():
        by_group[group].add(made.splits[key])
    assert all(len(splits) == 1 for splits in by_group.values())
    assert (made.identical, made.contradictory, made.dropped) == (6, 0, {})


def test_identical_images_of_two_classes_are_counted() -> None:
    items = make_items([[0]] * 5 + [[1]] * 5)
    made = assign([item._replace(pixels="x") if item.key in ("0-0", "9-0") else item for item in items], {}, 0)
    assert (made.identical, made.contradictory) == (2, 2)
    assert made.splits["0-0"] == made.splits["9-0"]


def test_across_official_splits_the_image_of_the_test_split_is_kept() -> None:
    items = [
        Item("a", 0, "a", "x", "train"),
        Item("b", 0, "b", "x", "test"),
        Item("c", 0, "c", "y", "train"),
        Item("d", 0, "d", "y", "val"),
        Item("e", 0, "e", "z", "train"),
        Item("f", 0, "f", "z", "train"),
    ]
    made = assign(items, dict.fromkeys(("train", "val", "test"), "official"), 0)
    assert made.dropped == {"a": "b", "c": "d"}
    assert made.splits == {"b": "test", "d": "val", "e": "train", "f": "train"}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    raw_trees.chncxr(tmp_path / "raw")
    return tmp_path / "raw"


NUMBERS = [*range(1, 7), *range(327, 334)]
SPLITS = ["train", "val", "test", "train", "train", "train", "train", "val", "test", "test", "exclude", "train", "val"]


def prepare_with(raw: Path, lines: list[str], *options: str) -> int:
    path = raw.parent / "mine.csv"
    path.write_text("\n".join(lines))
    command = ["prepare", "chncxr", "--raw", str(raw), "--data-root", str(raw.parent / "data"), "--allow-incomplete"]
    return bench.main([*command, "--split-file", str(path), *options])


def stem(number: int) -> str:
    return f"CHNCXR_{number:04}_{int(number > 326)}"


def test_a_users_split_is_taken_as_it_is(raw: Path) -> None:
    lines = [f"some/where/{stem(number)}.PNG;{split}" for number, split in zip(NUMBERS, SPLITS, strict=True)]
    assert prepare_with(raw, ["path;split", *lines]) == 0
    made = {path.stem: path.parent.parent.name for path in (raw.parent / "data/chncxr").glob("*/*/*")}
    assert made == {stem(n): split for n, split in zip(NUMBERS, SPLITS, strict=True) if split != "exclude"}
    assert '"kind": "user"' in (raw.parent / "data/chncxr/manifest.json").read_text()


GOOD = [f"{stem(number)},{split}," for number, split in zip(NUMBERS, SPLITS, strict=True)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["name,split"], "split file must have the columns id (or path), split and at will group, got no rows"),
        (["name,split", "a,train"], "and at will group, got name,split in"),
        (["id,split", "CHNCXR_0001_0,valid"], "split must be one of train, val, test, exclude, got 'valid' for 'CHN"),
        (["id,split", *GOOD, GOOD[0]], "split file must name each image once, got 'CHNCXR_0001_0' twice in"),
        (
            ["id,split", *GOOD[2:], "scan7,train"],
            "got 2 images that it does not name (CHNCXR_0001_0, CHNCXR_0002_0) and 1 ids that no image has (scan7)",
        ),
        (
            ["id,split,group", *(line + ("g" if number < 2 else "") for number, line in enumerate(GOOD))],
            "groups must lie in one split each, got 1 in several in",
        ),
        (
            ["id,split", *(line.replace("val", "train") for line in GOOD)],
            "each class must have images in each split, got none in val/normal, val/tuberculosis; give some",
        ),
    ],
)
def test_a_wrong_split_file_is_one_clear_line(
    raw: Path, capsys: pytest.CaptureFixture[str], lines: list[str], message: str
) -> None:
    assert prepare_with(raw, lines) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (raw.parent / "data/chncxr").exists()


def test_a_split_file_must_be_there(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prepare", "chncxr", "--raw", str(raw), "--split-file", "no.csv", "--data-root", str(raw / "data")]
    assert bench.main(command) == 2
    assert "split file must be a csv file, got 'no.csv'; there is no such file" in capsys.readouterr().err
