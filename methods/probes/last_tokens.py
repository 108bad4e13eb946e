"""The last tokens of a frozen backbone: what probes with a pooling of their own read, and one cache keeps for all."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.backbone import Backbone
from methods.contract import freeze
from methods.side.fpt_parts.parts import at_once, parts

TokenDtype = Literal["float16", "float32"]
DTYPES: dict[TokenDtype, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}


class LastTokens(nn.Module):
    """The frozen backbone up to its pooling.

    Args:
        backbone: The pretrained backbone; its head is dropped.
        storage: Type of the tokens.
    """

    def __init__(self, backbone: Backbone, storage: TokenDtype) -> None:
        super().__init__()
        freeze(backbone)
        backbone.drop_head()
        self.backbone = backbone
        self.storage = storage
        self.identity: Mapping[str, Any] = {"feature": "tokens behind the last norm", "storage": storage}
        self.parts = None
        self.augment_live = True

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Computes the tokens.

        Shape:
            - image: `(B, 3, H, W)`
            - Output: `tokens` `(B, N, D)`
        """
        return {"tokens": self.backbone.last_tokens(image).to(DTYPES[self.storage])}


def extractor(backbone: Backbone, config: Any) -> LastTokens:
    """The frozen backbone, image to tokens; `config` has `feature_dtype`."""
    return LastTokens(backbone, config.feature_dtype)


def pool(queries: Tensor, tokens: Tensor) -> Tensor:
    """Averages tokens by the attention that queries pay them: `softmax_n(queries_m . tokens_n)`.

    A value projection that follows acts on the M averages and not on N tokens: as it is linear and the weights sum to
    one, that is the same, and nothing of N x D numbers is kept for the backward pass but the tokens.

    Shape:
        - queries: `(M, D)`, scaled
        - tokens: `(B, N, D)`, as `computable` gives them
        - Output: `(B, M, D)`
    """
    return attention_to(queries, tokens).to(tokens.dtype) @ tokens


def attention_to(queries: Tensor, tokens: Tensor) -> Tensor:
    """The weights of `pool`, `(B, M, N)`, which sum to one over the tokens."""
    return (tokens @ queries.to(tokens.dtype).mT).softmax(dim=1).mT


def computable(tokens: Tensor) -> Tensor:
    """Stored tokens in the type that products are computed in, made once: each product would make a copy of its own."""
    return tokens.to(_computed_in(tokens))


def standardized(tokens: Tensor, eps: float) -> Tensor:
    """Tokens of mean 0 and variance 1 `(B, N, D)`, as `computable` gives them; a few images at a time in fp32.

    Args:
        tokens: `(B, N, D)`
        eps: Added to the variance.
    """
    width = tokens.shape[-1:]
    if torch.compiler.is_exporting():  # no number of images is fixed there
        return computable(F.layer_norm(tokens.float(), width, eps=eps))
    made = torch.empty_like(tokens, dtype=_computed_in(tokens))
    for part in parts(len(tokens), at_once(2 * 4 * tokens[0].numel(), tokens)):
        made[part] = F.layer_norm(tokens[part].float(), width, eps=eps)
    return made


def _computed_in(tokens: Tensor) -> torch.dtype:
    device = tokens.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
