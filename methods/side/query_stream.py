"""A stream of tokens beside a frozen backbone's: they read its keys and values, block by block, and change nothing."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods.backbone import Backbone
from methods.contract import freeze
from methods.side.fpt_parts.fast_path import fast_path
from methods.side.fpt_parts.fusion import Stored, attend
from methods.side.fpt_parts.lean_fusion import attend_to_features


class QueryStream(nn.Module):
    """What tokens that only ask pass of a frozen backbone: its queries, the attention's output layer, the MLPs.

    Their attention keeps nothing for the backward pass but its inputs, of which keys and values are the features
    themselves, as they are stored. All else is made again there (`made_again`): of P tokens it is little.

    Args:
        backbone: Stops training. Its keys and values, embedding and pooling are not part of this.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        freeze(backbone)
        self.blocks = nn.ModuleList(backbone.query_block(index) for index in range(len(backbone.blocks())))
        self.attend = attend_to_features if fast_path() else attend

    def queries(self, index: int, x: Tensor) -> Tensor:
        """A block's queries `(B, P, A E)` of the stream `(B, P, D)`."""
        block: Any = self.blocks[index]
        queries: Tensor = block.queries(x)
        return queries

    def branches(self, index: int, x: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
        """What a block's attention and its MLP add to the stream.

        Shape:
            - x: `(B, P, D)`
            - attended: `(B, P, A E)`
            - Output: both `(B, P, D)`
        """
        block: Any = self.blocks[index]
        attention: Tensor = block.attention(attended)
        return attention, block.mlp(x + attention)


def made_again(function: Callable[..., Any], *inputs: Any) -> Any:
    """Calls a function whose results, but for what it returns, are not kept for the backward pass but made again.

    Args:
        function: Of tensors, and whatever else.
        inputs: Its own. Tensors go in contiguous: so they come back from the host where activations wait there, and a
            product with others may keep other tensors, which checkpointing refuses.
    """
    given = [x.contiguous() if isinstance(x, Tensor) else x for x in inputs]
    if torch.is_grad_enabled():
        return checkpoint(function, *given, use_reentrant=False)
    return function(*given)


def features_of_block(stored: Stored, index: int) -> Stored:
    """Views of one block's features, `(B, 1, A, ., E)`."""
    return Stored(*(None if tensor is None else tensor[:, index : index + 1] for tensor in stored))  # type: ignore[arg-type]
