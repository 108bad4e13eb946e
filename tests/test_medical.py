"""The table of the medical models: what each row makes, counted by a formula of its own, and what it says."""

from typing import Any

import pytest
import torch

from benchmarks.errors import UserError
from benchmarks.model.backbone import make_native
from benchmarks.model.medical import MEDICAL


def parameters(
    width: int, depth: int, patch: int, hidden: int, positions: int, *, gated: bool = False, scales: bool = True,
    registers: int = 0,
) -> int:  # fmt: skip
    """Of a ViT with a class token, without a head.

    Args:
        width: D.
        depth: Number of blocks.
        patch: Side of a patch (px).
        hidden: Width between the two layers of an MLP; of each half where it is gated.
        positions: Number of position embeddings.
        gated: Whether the first layer of an MLP gives two halves.
        scales: Whether there are layer scales.
        registers: Number of register tokens.
    """
    attention = 4 * width * width + 4 * width
    mlp = (2 if gated else 1) * hidden * (width + 1) + (hidden + 1) * width
    block = attention + mlp + 4 * width + 2 * width * scales
    return depth * block + (3 * patch * patch + 1) * width + (1 + registers + positions) * width + 2 * width


COUNTS = {
    "retfound": parameters(1024, 24, 16, 4096, 197, scales=False),
    "retfound-oct": parameters(1024, 24, 16, 4096, 197, scales=False),
    "retfound-dinov2": parameters(1024, 24, 14, 4096, 257),
    "rad-dino": parameters(768, 12, 14, 3072, 1370),
    "uni": parameters(1024, 24, 16, 4096, 197),
    "uni2-h": parameters(1536, 24, 14, 4096, 256, gated=True, registers=8),
    "virchow": parameters(1280, 32, 14, 3416, 257, gated=True),
    "virchow2": parameters(1280, 32, 14, 3416, 261, gated=True, registers=4),
    "h-optimus-0": parameters(1536, 40, 14, 4096, 256, gated=True, registers=4),
    "h-optimus-1": parameters(1536, 40, 14, 4096, 256, gated=True, registers=4),
    "h0-mini": parameters(768, 12, 14, 2048, 256, gated=True, registers=4),
    "prov-gigapath": parameters(1536, 40, 16, 4096, 197, gated=True),
    "phikon": parameters(768, 12, 16, 3072, 197, scales=False),
    "phikon-v2": parameters(1024, 24, 16, 4096, 197),
    "hibou-b": parameters(768, 12, 14, 3072, 256, registers=4),
    "hibou-l": parameters(1024, 24, 14, 4096, 256, registers=4),
    "midnight": parameters(1536, 40, 14, 4096, 257, gated=True),
    "biomedclip": parameters(768, 12, 16, 3072, 197, scales=False),
    # its queries' and values' biases, none of keys
    "panderm": parameters(1024, 24, 16, 4096, 197) - 24 * 1024,
    "panderm-base": parameters(768, 12, 16, 3072, 197) - 12 * 768,
    "chexfound": parameters(1024, 24, 16, 2736, 1024, gated=True, registers=4),
    **dict.fromkeys(
        ("visionfm-fundus", "visionfm-oct", "visionfm-ffa", "visionfm-ultrasound", "visionfm-mri"),
        parameters(768, 12, 16, 3072, 197, scales=False),
    ),
}
# no class token; attention pooling: a query, its projections of D x D, D x 2D and D x D, a norm, and an MLP
SO400M = parameters(1152, 27, 14, 4304, 1024, scales=False) - 1152
POOLING = 1152 + 4 * 1152 * 1153 + 2 * 1152 + 2 * 1152 * 4304 + 4304 + 1152
COUNTS["medsiglip"] = SO400M + POOLING
# no position embedding but a table of (2 x 14 - 1)^2 + 3 distances a block and head
COUNTS["usfm"] = parameters(768, 12, 16, 3072, 0) - 12 * 768 + 12 * 12 * (27 * 27 + 3)


def test_every_row_is_counted() -> None:
    assert COUNTS.keys() == MEDICAL.keys()


@pytest.mark.parametrize("name", MEDICAL)
def test_a_row_makes_its_model_on_the_meta_device(name: str) -> None:
    model = make_native(name)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[name]


def test_settings_behind_a_name_count() -> None:
    model: Any = make_native("uni[depth=2,pool=avg]")
    assert len(model.blocks) == 2
    with pytest.raises(
        UserError, match=r"backbone must be one that can be made, got 'uni\[colour=2\]' \(TypeError: .*colour"
    ):
        make_native("uni[colour=2]")


@pytest.mark.parametrize(
    ("name", "millions"), [("uni", 303), ("uni2-h", 681), ("virchow", 631), ("virchow2", 631), ("prov-gigapath", 1135)]
)
def test_counts_are_those_of_the_cards(name: str, millions: int) -> None:
    assert round(COUNTS[name] / 1e6) == millions


@pytest.mark.parametrize("name", MEDICAL)
def test_a_row_makes_other_sizes_and_pools_as_it_says(name: str) -> None:
    row = MEDICAL[name]
    with torch.device("meta"):
        model: Any = row.create(img_size=112)
        assert model(torch.empty(1, 3, 112, 112)).shape == (1, model.num_features)
    assert (model.cls_token is None) == (row.pool == "native")


@pytest.mark.parametrize("name", MEDICAL)
def test_a_row_says_what_a_user_needs(name: str) -> None:
    row = MEDICAL[name]
    assert row.name == name == name.lower()
    assert row.mean is not None and row.std is not None and all(0 < value < 1 for value in (*row.mean, *row.std))
    assert row.licence and row.source and row.pool in ("native", "cls", "avg", "cls+avg")
    if row.hub_id is None:
        assert row.source.startswith("https://") and row.access is not None and "--weights FILE" in row.access
    else:
        assert row.hub_id.count("/") == 1
        assert row.access is None or (row.hub_id in row.access and "HF_TOKEN" in row.access)
