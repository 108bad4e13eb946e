"""Side methods as their papers write them, on the parameters of ours: what lean code is compared with.

Each function computes a method's logits from a built model and its inputs by PyTorch's own layers alone, and keeps what
they keep.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Transcription = Callable[..., Tensor]


def lst(model: Any, outputs: Tensor) -> Tensor:
    """The ladder, side block by side block."""
    x = outputs.to(model.head.weight.dtype).unbind(1)
    h = model.down_proj(x[0])
    for rung, x_l in zip(model.rungs, x[1:], strict=True):
        mu = torch.sigmoid(rung.gate / 0.1)
        h = rung.block(mu * h + (1 - mu) * rung.down_proj(x_l))
    return model.head(model.pooling(model.norm(h)))


def res_tuning_bypass(model: Any, outputs: Tensor) -> Tensor:
    """The bypass, block by block."""

    def tuned(tuner: Any, u: Tensor) -> Tensor:
        return u + tuner.up_proj(F.gelu(tuner.down_proj(u)))

    x = outputs.to(model.head.weight.dtype).unbind(1)
    b = x[0]
    for of_block, of_path, x_l in zip(model.of_blocks, model.of_path, x[1:], strict=True):
        b = tuned(of_block, x_l) + tuned(of_path, b)
    return model.head(model.backbone.pool_tokens(b))


def unipt(model: Any, outputs: Tensor) -> Tensor:
    """Every map whole, and all tokens mapped up before they are pooled."""
    x = outputs.to(model.head.weight.dtype).unbind(1)
    *s, last = (each.norm(each.proj(x_i)) for each, x_i in zip(model.maps, x, strict=True))
    found = []
    for s_i in s:
        similarity = F.normalize(F.relu(last @ s_i.mT), p=1, dim=-1, eps=torch.finfo(torch.float32).tiny)
        found.append((torch.eye(similarity.shape[-1]) + similarity) @ s_i)
    scores = torch.stack([model.gate(last.mean(dim=1) * s_i.mean(dim=1)) for s_i in s])  # (L, B, 1)
    mixed = (scores.softmax(dim=0).unsqueeze(-1) * torch.stack(found)).sum(dim=0)
    tokens = model.up_proj(F.relu(last + model.norm(model.proj(mixed))))  # (B, N, D)
    return model.head(model.pooling(tokens))


def dtl(model: Any, outputs: Tensor) -> Tensor:
    """The side path in full width beside every block."""
    return _dtl(model, outputs, lambda added: added)


def dtl_plus(model: Any, outputs: Tensor) -> Tensor:
    """The same with the convolution."""

    def convolved(added: Tensor) -> Tensor:
        prefix, patches = added.tensor_split([model.path.num_prefix_tokens], dim=1)
        side = math.isqrt(patches.shape[1])
        grid = model.path.conv(patches.mT.unflatten(-1, (side, side)))
        return torch.cat([prefix, grid.flatten(2).mT], dim=1)

    return _dtl(model, outputs, convolved)


def _dtl(model: Any, outputs: Tensor, convolved: Callable[[Tensor], Tensor]) -> Tensor:
    early = outputs.to(model.head.weight.dtype).unbind(1)
    x, h, context = early[0], torch.zeros_like(early[0]), model.backbone.context()
    for index, (down, up) in enumerate(zip(model.path.down, model.path.up, strict=True)):
        h = h + F.linear(F.linear(x, down), up)
        if index < model.first:
            x = early[index + 1]
        else:
            x = model.backbone.run(index, x, context) + convolved(h * torch.sigmoid(100 * h))
    return model.head(model.backbone.pool_tokens(x))


def vqt(model: Any, keys: Tensor, values: Tensor, feature: Tensor) -> Tensor:
    """Queries block by block, and all that they pass kept."""
    summary = [feature]
    for index, prompts in enumerate(model.dropout(model.prompts.expand(len(keys), -1, -1, -1)).unbind(1)):
        x, attention, mlp = _asked(model.stream, index, prompts, keys, values)
        summary.append((x + attention + mlp).flatten(1))
    return model.head(torch.cat([F.normalize(vector, dim=1) for vector in summary], dim=1))


def synqt(model: Any, keys: Tensor, values: Tensor, feature: Tensor) -> Tensor:
    """Queries synthesised and asked block by block, and all that they pass kept."""
    answer, answers = keys.new_zeros(len(keys), 1, 1, dtype=torch.float32), []
    for index, synthesis in enumerate(model.synthesis):
        prompts = synthesis(model.feedback_scale * answer)
        x, attention, mlp = _asked(model.stream, index, prompts, keys, values)
        answers.append([part.mean(dim=1, keepdim=True) for part in (x + attention + mlp, attention, mlp)])
        answer = answers[-1][0]
    collected = [vector for kind in zip(*answers, strict=True) for vector in kind]
    return model.head(model.norm(model.combination(torch.cat([answer, *collected], dim=1))))


def _asked(stream: Any, index: int, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens that ask in a block, and what its attention and its MLP add to them."""
    query = stream.queries(index, x).unflatten(-1, (keys.shape[2], keys.shape[4])).transpose(1, 2)  # (B, A, P, E)
    key, value = (tensor[:, index].to(query.dtype) for tensor in (keys, values))
    attended = (query @ key.mT * key.shape[-1] ** -0.5).softmax(dim=-1).to(value.dtype) @ value
    return x, *stream.branches(index, x, attended.transpose(1, 2).flatten(2))


def side_tuning(model: Any, image_low: Tensor, feature: Tensor) -> Tensor:
    """The side ViT by timm's blocks."""
    side, alpha = model.side_network, model.blend.sigmoid()
    x = side._pos_embed(side.patch_embed(image_low))
    for block in side.blocks:
        x = x + block.attn(block.norm1(x))
        x = x + block.mlp(block.norm2(x))
    own = model.proj(side.norm(x)[:, 0])
    return model.head(alpha * model.probe.standardized(feature) + (1 - alpha) * own)


TRANSCRIPTIONS: dict[str, Transcription] = {
    "lst": lst,
    "res_tuning_bypass": res_tuning_bypass,
    "unipt": unipt,
    "dtl": dtl,
    "dtl_plus": dtl_plus,
    "vqt": vqt,
    "synqt": synqt,
    "side_tuning": side_tuning,
}


class Transcribed(nn.Module):
    """A model whose forward is a transcription's.

    Args:
        model: Gives parameters and head.
        transcription: Computes its logits.
    """

    def __init__(self, model: nn.Module, transcription: Transcription) -> None:
        super().__init__()
        self.model, self.transcription = model, transcription

    def forward(self, **inputs: Tensor) -> Tensor:
        """Classifies a batch."""
        return self.transcription(self.model, **inputs)
