"""Weights that are not a backbone's are refused with what to do; those that can be resized are left to the loader."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from test_layouts import SMALL, fitted, randomised, retfound, vit
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from benchmarks.errors import UserError


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "model.pth")
    return folder / "model.pth"


def state_of(**arguments: Any) -> dict[str, Tensor]:
    return dict(randomised(vit(**arguments)).state_dict())


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {  # name -> arguments of the file's, of the backbone
    "patch": (
        {"patch_size": 8}, {},
        r"weights must have the patch size 14 px of small, got 8 x 8 px in 'patch_embed\.proj\.weight'; choose a "
        r"backbone of that patch size, or --resample-patch-embed",
    ),
    "width": (
        {"embed_dim": 12}, {},
        r"weights must have the shapes of small, got 30 others: cls_token \(1, 1, 12\) in place of \(1, 1, 24\), "
        r"pos_embed .*, patch_embed\.proj\.weight \(12, 3, 14, 14\) in place of \(24, 3, 14, 14\); choose the backbone",
    ),
    "channels": (
        {"in_chans": 1}, {},
        r"got 1 others: patch_embed\.proj\.weight \(24, 1, 14, 14\) in place of \(24, 3, 14, 14\); choose",
    ),
    "depth": (
        {"depth": 1}, {},
        r"weights must hold the backbone small, got a file without 25% of its parameters: 12 missing "
        r"\(blocks\.1\.norm1\.weight, blocks\.1\.norm1\.bias, blocks\.1\.attn\.qkv\.weight, \.\.\.\), 0 unexpected; "
        r"choose the backbone that the file is of \(bench\.py list backbones\)",
    ),
    "deeper": (
        {"depth": 3}, {},
        r"weights must be those of small and no others, got 0 missing, 12 unexpected \(blocks\.2\.norm1\.weight, .*, "
        r"\.\.\.\); choose",
    ),
    "scales": (
        {}, {"init_values": 1e-5},
        r"got 4 missing \(blocks\.0\.ls1\.gamma, blocks\.0\.ls2\.gamma, blocks\.1\.ls1\.gamma, \.\.\.\), 0 unexpected;",
    ),
    "no-class-token": (
        {"class_token": False, "global_pool": "avg", "fc_norm": False}, {},
        r"position embedding must be of 1 prefix tokens and a square grid to fit small, got 16 positions, 4 x 4 and 0 "
        r"before; choose a backbone with the prefix tokens of the file",
    ),
    "class-token": (
        {}, {"class_token": False, "global_pool": "avg", "fc_norm": False},
        r"must be of 0 prefix tokens and a square grid to fit small, got 17 positions, 4 x 4 and 1 before; choose",
    ),
    "registers": (
        {"reg_tokens": 4}, {},
        r"must be of 1 prefix tokens and a square grid to fit small, got 21 positions, 4 x 4 and 5 before; choose",
    ),
    "not-square": (
        {"img_size": (56, 84)}, {},
        r"must be of 1 prefix tokens and a square grid to fit small, got 25 positions, 5 x 5 and 0 before; choose",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_weights_of_another_model_are_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours, message = REFUSED[case]
    path = saved(tmp_path, state_of(**theirs))
    with pytest.raises(UserError, match=message) as error:
        fitted(monkeypatch, path, partial(vit, **ours))
    assert "\n" not in str(error.value)


def test_missing_and_unexpected_names_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of which all are strange: a file of something else."""
    path = saved(tmp_path, {f"unet.{name}": tensor for name, tensor in state_of().items()})
    message = (
        r"got a file without 100% of its parameters: 30 missing \(cls_token, pos_embed, patch_embed\.proj\.weight, "
        r"\.\.\.\), 30 unexpected \(unet\.cls_token, unet\.pos_embed, unet\.patch_embed\.proj\.weight, \.\.\.\); choose"
    )
    with pytest.raises(UserError, match=message):
        fitted(monkeypatch, path, vit)


def test_a_number_that_is_not_finite_is_named_by_timms_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of()
    state["norm.bias"][3] = float("inf")
    path = saved(tmp_path, retfound(state))
    with pytest.raises(
        UserError, match=r"weights must be finite, got inf in 'fc_norm\.bias' of '.*model\.pth'; take an"
    ):
        fitted(monkeypatch, path, partial(vit, global_pool="avg"))


def test_what_a_dropped_decoder_holds_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, {**state_of(), "mask_token": torch.full((1, 1, 24), float("nan"))})
    assert fitted(monkeypatch, path, vit).note == "weights of model.pth: dropped 1 (mask_token)"


def test_a_patch_embedding_is_resampled_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexiViT's inverse: a larger patch of an image made larger says what the small one says of the small."""
    state = state_of(patch_size=7, img_size=28)
    path = saved(tmp_path, state)
    found = fitted(monkeypatch, path, vit, resample_patch_embed=True)
    assert found.note == "weights of model.pth: resampled 1 (patch_embed.proj.weight)"
    model = vit().eval()
    model.load_state_dict(found.state)
    small = vit(patch_size=7, img_size=28).eval()
    small.load_state_dict(state)
    image = torch.rand(2, 3, 7, 7)
    large = nn.functional.interpolate(image, size=(14, 14), mode="bicubic", antialias=True)
    embed: Any = model.patch_embed
    theirs: Any = small.patch_embed
    with torch.no_grad():
        torch.testing.assert_close(embed.proj(large), theirs.proj(image), rtol=0, atol=2e-4)
    plain = checkpoint_filter_fn(dict(state), vit())  # as timm loads it
    torch.testing.assert_close(found.state["patch_embed.proj.weight"], plain["patch_embed.proj.weight"])


def test_positions_of_another_square_grid_stay_for_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resized once from the file's grid to the run's, not by way of the backbone's own."""
    state = state_of(img_size=98)
    path = saved(tmp_path, {"model": state, "mask_token": torch.zeros(1)})
    found = fitted(monkeypatch, path, vit)
    assert not found.changed
    assert torch.equal(found.state["pos_embed"], state["pos_embed"])
    published = saved(tmp_path, retfound(state))
    assert torch.equal(
        fitted(monkeypatch, published, partial(vit, global_pool="avg")).state["pos_embed"], state["pos_embed"]
    )


def test_a_bias_table_of_another_window_is_resampled_by_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {**SMALL, "use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.1}
    create = partial(timm.create_model, "beit_base_patch16_224", **arguments)
    path = saved(tmp_path, randomised(create(img_size=98)).state_dict())
    found = fitted(monkeypatch, path, create)
    assert found.note == (
        "weights of model.pth: resampled 2 (blocks.0.attn.relative_position_bias_table, "
        "blocks.1.attn.relative_position_bias_table)"
    )
    create().load_state_dict(found.state)


def test_what_timms_filter_does_not_understand_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, {"visual.class_embedding": torch.zeros(24), "visual.x": torch.zeros(2)})
    with pytest.raises(UserError, match=r"weights must .*small.*choose the backbone that the file is of"):
        fitted(monkeypatch, path, vit)


def test_a_file_that_timms_filter_fails_on_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of()
    state["patch_embed.proj.weight"] = torch.zeros(5)
    message = r"weights must be those of small, got others, which timm cannot bring to it \(\w+Error: .*\); choose the"
    with pytest.raises(UserError, match=message):
        fitted(monkeypatch, saved(tmp_path, state), vit)
