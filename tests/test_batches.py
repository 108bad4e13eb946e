"""Batches: a seeded order, fixed views that are never augmented, and the normalisation as its formula."""

import weakref
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.data import batches
from benchmarks.data.augment import Preprocessing, draw_augmentation
from benchmarks.data.batches import Split, iterate, sequential_order, training_order
from benchmarks.features.cache import FeatureRows, ForEach

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (11, 3, 8, 8), dtype=np.uint8)
LOW = RNG.integers(0, 256, (11, 3, 4, 4), dtype=np.uint8)
FEATURES = RNG.normal(size=(11, 5)).astype(np.float16)
LABELS = np.arange(11) % 3
MEAN, STD = (0.4, 0.2, 0.1), (0.3, 0.2, 0.1)
PREPROCESSING = Preprocessing(MEAN, STD, CPU)
VIEWS = {"image": IMAGES, "image_low": LOW}


class StoredFeatures:
    """Stands in for the rows of a feature cache."""

    sample_bytes = FEATURES[0].nbytes

    def read(self, indices: NDArray[np.int64], pin: bool, for_each: ForEach) -> dict[str, torch.Tensor]:
        return {"keys": torch.from_numpy(FEATURES[indices])}


SPLIT = Split(LABELS, VIEWS, cast(FeatureRows, StoredFeatures()), frozenset({"image"}))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def formula(images: np.ndarray) -> np.ndarray:
    return (images / 255.0 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))


def test_the_training_order_is_the_seeds_and_drops_an_incomplete_batch() -> None:
    orders = [np.concatenate(training_order(11, 4, seeded(seed))) for seed in (0, 0, 1)]
    assert [len(order) for order in training_order(11, 4, seeded(0))] == [4, 4]
    assert np.array_equal(orders[0], orders[1]) and not np.array_equal(orders[0], orders[2])
    assert len(set(orders[0])) == 8
    generator = seeded(0)
    first, second = (np.concatenate(training_order(11, 4, generator)) for _ in range(2))
    assert not np.array_equal(first, second)


def test_a_full_last_batch_is_kept() -> None:
    assert [len(order) for order in training_order(8, 4, seeded(0))] == [4, 4]
    assert [len(order) for order in training_order(4, 4, seeded(0))] == [4]


def test_the_sequential_order_is_every_sample_once() -> None:
    assert [list(order) for order in sequential_order(5, 2)] == [[0, 1], [2, 3], [4]]


def test_batches_are_the_samples_normalised_by_the_formula() -> None:
    order = sequential_order(11, 4)
    found = list(iterate(SPLIT, order, PREPROCESSING, CPU, augment=False))
    assert len(found) == 3
    for indices, (inputs, labels) in zip(order, found, strict=True):
        assert set(inputs) == {"image", "image_low", "keys"}
        assert inputs["image"].dtype == inputs["image_low"].dtype == torch.float32
        assert inputs["image"].numpy() == pytest.approx(formula(IMAGES[indices]), abs=1e-5)
        assert inputs["image_low"].numpy() == pytest.approx(formula(LOW[indices]), abs=1e-5)
        assert np.array_equal(inputs["keys"], FEATURES[indices])
        assert np.array_equal(labels, LABELS[indices])


def test_fixed_views_and_features_are_never_augmented() -> None:
    torch.manual_seed(0)
    ((inputs, _),) = iterate(SPLIT, [np.arange(11)], PREPROCESSING, CPU, augment=True)
    assert inputs["image"].numpy() == pytest.approx(formula(IMAGES), abs=1e-5)
    assert np.array_equal(inputs["keys"], FEATURES)
    changed = np.abs(inputs["image_low"].numpy() - formula(LOW)).reshape(11, -1).max(axis=1) > 1e-3
    assert changed.all()
    assert inputs["image_low"].shape == LOW.shape


def ramps(side: int, num: int = 11) -> np.ndarray:
    """Images whose red is the relative height of a row and whose green that of a column, in 1/255."""
    centres = (np.arange(side) + 0.5) / side * 255
    rows, columns = np.meshgrid(centres, centres, indexing="ij")
    image = np.stack([rows, columns, np.full_like(rows, 128)])
    return np.repeat(image[None], num, axis=0).round().astype(np.uint8)


def test_two_augmented_views_of_an_image_share_one_crop_at_their_own_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ramp tells where each pixel came from: the same part of the image in both views, mirrored in both or none."""
    monkeypatch.setattr("benchmarks.data.augment.JITTER", 0.0)
    torch.manual_seed(0)
    identity = Preprocessing((0.0,) * 3, (1.0,) * 3, CPU)
    sides = {"image": 256, "image_low": 96}
    split = Split(LABELS, {name: ramps(side) for name, side in sides.items()})
    ((inputs, _),) = iterate(split, [np.arange(11)], identity, CPU, augment=True)
    ends = {}
    for name, side in sides.items():
        middle = inputs[name][:, :, side // 2 - 1 : side // 2 + 1, side // 2 - 1 : side // 2 + 1].mean(dim=(2, 3))
        quarter = inputs[name][:, :, side // 4 - 1 : side // 4 + 1, side // 4 - 1 : side // 4 + 1].mean(dim=(2, 3))
        ends[name] = torch.cat([middle[:, :2], quarter[:, :2]], dim=1)  # (B, 4): relative rows and columns seen there
    torch.testing.assert_close(ends["image"], ends["image_low"], atol=0.005, rtol=0)
    assert (ends["image"].std(dim=0) > 0.01).all()  # each image has its own crop
    mirrored = ends["image"][:, 3] > ends["image"][:, 1]
    assert mirrored.any() and not mirrored.all()


def test_a_single_augmented_view_draws_what_it_drew_beside_a_fixed_one() -> None:
    def augmented(split: Split) -> torch.Tensor:
        torch.manual_seed(5)
        ((inputs, _),) = iterate(split, [np.arange(11)], PREPROCESSING, CPU, augment=True)
        return inputs["image_low"]

    torch.manual_seed(5)
    alone = PREPROCESSING(torch.from_numpy(LOW), draw_augmentation(11, LOW.shape[-1]))
    assert torch.equal(augmented(SPLIT), alone)
    assert torch.equal(augmented(Split(LABELS, {"image_low": LOW})), alone)


def test_augmentation_repeats_with_the_seed() -> None:
    def augmented(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        ((inputs, _),) = iterate(SPLIT, [np.arange(11)], PREPROCESSING, CPU, augment=True)
        return inputs["image_low"]

    assert torch.equal(augmented(3), augmented(3))
    assert not torch.equal(augmented(3), augmented(4))


def test_augmented_images_stay_in_range() -> None:
    torch.manual_seed(0)
    identity = Preprocessing((0.0,) * 3, (1.0,) * 3, CPU)
    images = identity(torch.from_numpy(IMAGES), draw_augmentation(len(IMAGES), IMAGES.shape[-1]))
    assert images.min() >= 0 and images.max() <= 1


@pytest.mark.parametrize("small_bytes", [0, 1, 3 * 4 * SPLIT.sample_bytes, 2**22])
def test_batches_are_those_of_a_plain_loop_however_many_are_read_at_once(
    small_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read by threads, three at a time or all at once: the same batches, and as much drawn for augmentation."""
    monkeypatch.setattr(batches, "SMALL_BYTES", small_bytes)
    order = [*training_order(11, 4, seeded(0), 41), np.array([10, 2])]
    torch.manual_seed(0)
    found = list(iterate(SPLIT, order, PREPROCESSING, CPU, augment=True))
    drawn = torch.rand(1)
    torch.manual_seed(0)
    for indices, (inputs, labels) in zip(order, found, strict=True):
        low = torch.from_numpy(np.stack([LOW[index] for index in indices]))
        image = torch.from_numpy(np.stack([IMAGES[index] for index in indices]))
        assert torch.equal(inputs["image_low"], PREPROCESSING(low, draw_augmentation(len(indices), 4)))
        assert torch.equal(inputs["image"], PREPROCESSING(image))
        assert np.array_equal(inputs["keys"], np.stack([FEATURES[index] for index in indices]))
        assert labels.tolist() == [LABELS[index] for index in indices]
    assert torch.equal(torch.rand(1), drawn)


def test_small_batches_are_read_together_and_large_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Counted(StoredFeatures):
        def read(self, indices: NDArray[np.int64], pin: bool, for_each: ForEach) -> dict[str, torch.Tensor]:
            asked.append(len(indices))
            return super().read(indices, pin, for_each)

    split = Split(LABELS, {}, cast(FeatureRows, Counted()))
    for small_bytes, expected in (
        (7 * 2 * Counted.sample_bytes, [11]),
        (4 * Counted.sample_bytes, [4, 4, 3]),
        (0, [2, 2, 2, 2, 2, 1]),
    ):
        monkeypatch.setattr(batches, "SMALL_BYTES", small_bytes)
        asked.clear()
        assert len(list(iterate(split, sequential_order(11, 2), PREPROCESSING, CPU, augment=False))) == 6
        assert asked == expected


def test_an_error_of_the_reader_reaches_the_loop() -> None:
    with pytest.raises(IndexError):
        list(iterate(SPLIT, [np.array([0]), np.array([99])], PREPROCESSING, CPU, augment=False))


def test_a_batch_is_let_go_before_the_next_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the device would hold the features of two batches: the memory that is reported would not be true."""
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def prepare(images: torch.Tensor, augmentation: None) -> torch.Tensor:
        alive.append(sum(reference() is not None for reference in held))
        return images.float()

    only_low = Split(LABELS, {"image_low": LOW}, cast(FeatureRows, StoredFeatures()))
    for inputs, _ in iterate(only_low, sequential_order(11, 2), cast(Preprocessing, prepare), CPU, augment=False):
        held += [weakref.ref(tensor) for tensor in inputs.values()]
        del inputs
    assert alive == [0] * 6
