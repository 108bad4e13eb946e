"""Where families let methods put something: what it gets, and what its output is added to."""

from typing import Any

import pytest
import torch
from small_backbones import ALL, make, reason
from torch import Tensor, nn

from methods.backbone import Backbone


@pytest.mark.parametrize("family", [name for name in ALL if reason(name, "adapter") is None])
def test_an_adapter_edits_what_the_mlp_adds_behind_its_scale(family: str) -> None:
    backbone, image = make(family)
    with torch.no_grad():
        plain = backbone(image)

        class Nothing(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                assert x.shape[-1] == width
                return torch.zeros_like(x)

        for index in range(len(backbone.blocks())):
            backbone.put_behind_mlp(index, nn.Identity())
        torch.testing.assert_close(backbone(image), plain, rtol=1e-5, atol=1e-5)
        width = backbone.block_widths()[1]
        backbone.put_behind_mlp(1, Nothing())
        silent, _ = make(family)
        block: Any = silent.blocks()[1]
        last = block.norm2 if family == "swinv2" else block.mlp.fc2  # whose output is the branch's
        last.weight.zero_()
        if last.bias is not None:
            last.bias.zero_()
        torch.testing.assert_close(backbone(image), silent(image), rtol=1e-5, atol=1e-5)
        assert (backbone(image) - plain).abs().max() > 1e-3


class Recorder(nn.Module):
    """Keeps what it gets, and answers with a multiple of it."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        self.got = x
        return self.factor * x


def block_output(backbone: Backbone, image: Tensor, index: int) -> Tensor:
    """What a block yields, `(B, ..., D)`."""
    found = []
    handle = backbone.blocks()[index].register_forward_hook(lambda module, arguments, output: found.append(output))
    backbone(image)
    handle.remove()
    return found[0].movedim(1, -1) if backbone.family in ("ConvNeXt", "ResNet") else found[0]


def silenced(family: str, index: int, swin: str, other: str) -> Backbone:
    """A backbone one of whose branches adds nothing: the last layer of it, by its name, yields 0."""
    backbone, _ = make(family)
    last: Any = backbone.blocks()[index].get_submodule(swin if family == "swinv2" else other)
    last.weight.zero_()
    if last.bias is not None:
        last.bias.zero_()
    return backbone


BRANCHES = [name for name in ALL if reason(name, "adaptformer") is None]


@pytest.mark.parametrize("family", BRANCHES)
def test_what_stands_behind_the_attention_edits_what_it_adds_behind_its_scale(family: str) -> None:
    with torch.no_grad():
        backbone, image = make(family)
        plain = backbone(image)
        for index in range(len(backbone.blocks())):
            backbone.put_behind_attention(index, nn.Identity())
        torch.testing.assert_close(backbone(image), plain, rtol=1e-5, atol=1e-5)
        backbone.put_behind_attention(1, Recorder(0.0))
        expected = silenced(family, 1, "norm1", "attn.proj")(image)
        torch.testing.assert_close(backbone(image), expected, rtol=1e-5, atol=1e-5)
        assert (expected - plain).abs().max() > 1e-3


@pytest.mark.parametrize("family", BRANCHES)
def test_what_stands_beside_the_mlp_gets_the_stream_and_adds_to_it(family: str) -> None:
    """The stream is what a block yields whose MLP adds nothing."""
    with torch.no_grad():
        backbone, image = make(family)
        plain = block_output(backbone, image, 1)
        module = Recorder(2.0)
        backbone.put_beside_mlp(1, module)
        found = block_output(backbone, image, 1)
        stream = block_output(silenced(family, 1, "norm2", "mlp.fc2"), image, 1)
        torch.testing.assert_close(module.got.reshape(stream.shape), stream, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found, plain + 2 * stream, rtol=1e-4, atol=1e-4)


INPUTS = [name for name in ALL if reason(name, "convpass") is None]


@pytest.mark.parametrize("family", INPUTS)
def test_what_stands_beside_layers_gets_what_they_get_and_adds_to_the_stream(family: str) -> None:
    """Of a block one of whose branches adds nothing, the other is what it yields less what it gets."""
    with torch.no_grad():
        backbone, image = make(family)
        first, plain = block_output(backbone, image, 0), block_output(backbone, image, 1)
        stream = block_output(silenced(family, 1, "", "mlp.fc2"), image, 1)
        norms = [backbone.blocks()[1].get_submodule(name) for name in ("norm1", "norm2")]
        modules = Recorder(0.0), Recorder(2.0)
        backbone.put_beside_layers(1, *modules)
        found = block_output(backbone, image, 1)
        for norm, module, x in zip(norms, modules, (first, stream), strict=True):
            torch.testing.assert_close(module.got, norm(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found, plain + 2 * modules[1].got, rtol=1e-4, atol=1e-4)
        modules[0].factor, modules[1].factor = 2.0, 0.0
        block_output(backbone, image, 1)
        torch.testing.assert_close(modules[1].got, norms[1](stream + 2 * modules[0].got), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", INPUTS)
def test_of_a_blocks_layers_those_that_read_a_norm_are_its_readers(family: str) -> None:
    """Seen by hooks on every linear layer of the block: what is the norm's output, and what is not."""
    backbone, image = make(family)
    block: Any = backbone.blocks()[1]
    got: dict[nn.Module, Tensor] = {}
    for module in block.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, arguments, output: got.update({module: arguments[0]}))
    for norm, expected in zip((block.norm1, block.norm2), backbone.inputs(1), strict=True):
        assert expected.norm.parent is block and getattr(block, expected.norm.name) is norm
        norm.register_forward_hook(lambda module, arguments, output: got.update({module: output}))
        with torch.no_grad():
            backbone(image)
        readers = {layer for layer, x in got.items() if isinstance(layer, nn.Linear) and x is got[norm]}
        assert readers == set(expected.readers) != set()


@pytest.mark.parametrize("family", [name for name in ALL if reason(name, "fact_tt") is None])
def test_a_blocks_weights_of_squares_are_all_but_gates(family: str) -> None:
    backbone, _ = make(family)
    width = backbone.embed_dim
    for index, block in enumerate(backbone.blocks()):
        found = [getattr(parent, name) for parent, name, _ in backbone.squares(index)]
        assert found == [layer for layer in block.modules() if isinstance(layer, nn.Linear)]
        assert [site.width for site in backbone.squares(index)] == [len(layer.weight) for layer in found]
        assert not any(size % width for layer in found for size in layer.weight.shape)


@pytest.mark.parametrize("family", ALL)
def test_what_stands_behind_a_block_gets_what_it_yields(family: str) -> None:
    with torch.no_grad():
        backbone, image = make(family)
        plain = block_output(backbone, image, 1)
        widths, module = backbone.block_widths(), Recorder(3.0)
        assert widths[1] == plain.shape[-1]
        backbone.put_behind_block(1, module)
        found = backbone(image)
        torch.testing.assert_close(module.got, plain, rtol=0, atol=0)
        other, _ = make(family)
        other.blocks()[1].register_forward_hook(lambda module, arguments, output: 3 * output)
        torch.testing.assert_close(found, other(image), rtol=1e-5, atol=1e-5)
