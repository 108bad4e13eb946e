"""Augmentation: torchvision's own functions image by image, its distribution of crops, and the seed."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from benchmarks.data.augment import (
    GREY,
    Augmentation,
    Preprocessing,
    apply_augmentation,
    draw_augmentation,
    draw_for_views,
)

WEIGHTS = torch.tensor(GREY)


def images(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(seed))


def by_torchvision(batch: Tensor, augmentation: Augmentation) -> Tensor:
    """Each image through torchvision's functions with the same parameters."""
    results = []
    for image, flip, brightness, contrast, top, left, height, width in zip(batch, *augmentation, strict=True):
        mirrored = functional.horizontal_flip(image) if flip else image
        brighter = functional.adjust_brightness(mirrored, float(brightness))
        jittered = functional.adjust_contrast(brighter, float(contrast))
        box = [int(edge) for edge in (top, left, height, width)]
        results.append(functional.resized_crop(jittered, *box, size=list(image.shape[-2:]), antialias=True))
    return torch.stack(results)


@pytest.mark.parametrize("side", [17, 128, 224])
def test_a_batch_is_what_torchvision_makes_of_each_image(side: int) -> None:
    torch.manual_seed(0)
    batch, augmentation = images(16, side), draw_augmentation(16, side)
    expected = by_torchvision(batch, augmentation)
    assert augmentation.flip.any() and not augmentation.flip.all()
    torch.testing.assert_close(apply_augmentation(batch.clone(), augmentation, WEIGHTS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "box", [(0, 0, 32, 32), (0, 0, 26, 30), (6, 2, 26, 30), (1, 0, 1, 32)], ids=["all", "corner", "end", "line"]
)
def test_a_crop_never_sees_what_lies_beside_it(box: tuple[int, int, int, int]) -> None:
    one = torch.ones(1, dtype=torch.float64)
    augmentation = Augmentation(one > 0, one, one, *(one * edge for edge in box))
    batch = images(1, 32)
    expected = by_torchvision(batch, augmentation)
    torch.testing.assert_close(apply_augmentation(batch.clone(), augmentation, WEIGHTS), expected, atol=1e-4, rtol=0)


def test_views_of_two_sizes_show_the_same_crop_as_torchvisions() -> None:
    """A smooth image at twice the size: torchvision's crop of it, made small, is the crop of the small one."""
    torch.manual_seed(0)
    drawn = draw_for_views(8, {"image": 256, "image_low": 128})
    large = functional.resize(images(8, 4), [256, 256], antialias=True)
    small = functional.resize(large, [128, 128], antialias=True)
    by_large = functional.resize(by_torchvision(large, drawn["image"]), [128, 128], antialias=True)
    torch.testing.assert_close(apply_augmentation(small, drawn["image_low"], WEIGHTS), by_large, atol=0.01, rtol=0)
    for edge in ("top", "left", "height", "width"):
        assert torch.equal(getattr(drawn["image"], edge), 2 * getattr(drawn["image_low"], edge))


def test_parameters_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    count, side = 20_000, 224
    drawn = draw_augmentation(count, side)
    crop = v2.RandomResizedCrop(side, scale=(0.8, 1.0), ratio=(0.7, 1.3))
    image = torch.zeros(3, side, side)
    boxes = [crop.make_params([image]) for _ in range(4000)]
    for name in ("top", "left", "height", "width"):
        ours = getattr(drawn, name).numpy()
        theirs = np.array([box[name] for box in boxes])
        values = np.arange(side + 1)
        gap = np.searchsorted(np.sort(ours), values, "right") / count
        gap -= np.searchsorted(np.sort(theirs), values, "right") / len(theirs)
        assert np.abs(gap).max() < 0.034, name  # Kolmogorov and Smirnov's bound at 0.1 %
    assert drawn.flip.double().mean() == pytest.approx(0.5, abs=0.02)
    for factor in (drawn.brightness, drawn.contrast):
        assert (factor.min(), factor.max()) == pytest.approx((0.8, 1.2), abs=1e-3)
        assert factor.mean() == pytest.approx(1, abs=0.01)
    assert (drawn.top + drawn.height <= side).all() and (drawn.left + drawn.width <= side).all()
    assert all((edge >= 0).all() for edge in drawn)


def test_parameters_are_the_global_seeds() -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.stack([values.double() for values in draw_augmentation(8, 64)])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_the_stored_images_stay_as_they_are() -> None:
    stored = (images(4, 16) * 255).to(torch.uint8)
    before = stored.clone()
    preprocessing = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.2, 0.2), torch.device("cpu"))
    for augmentation in (None, draw_augmentation(4, 16)):
        preprocessing(stored, augmentation)
        assert torch.equal(stored, before)
