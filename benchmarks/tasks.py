"""What a model is asked, by the loss that it trains with: one class of several, several findings, or a grade.

All that depends on it is here: how many outputs a head has, the loss, what outputs say of classes, and the class that
an image is called. Everything else works on logits of classes or findings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from benchmarks.choices import FEW_UNITS, one_of
from benchmarks.config import LossName
from benchmarks.errors import UserError
from benchmarks.scores import log_odds

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """A task; C classes or findings, O outputs of the head, n or B images.

    Attributes:
        name: `multiclass`, `multilabel` or `ordinal`.
        num_outputs: `num_outputs(C)`, those of the head.
        loss: `loss(outputs, targets)`: the mean loss of a batch, a scalar, of outputs `(B, O)` in fp32. Targets are
            class indices `(B,)`; of findings `(B, C)` of 0 and 1, nan where that is not known.
        logits: `logits(outputs)`: logits of classes or findings `(B, C)`, as they are stored.
        probabilities: Of these logits `(n, C)`, by numpy.
        log_probabilities: The logarithms of these, by torch.
        odds: `odds(logits)`: by which images are ranked for each class or finding `(n, C)`.
        called: `called(logits)`: the class that each image is called `(n,)`; of findings whether each is `(n, C)`.
    """

    name: Literal["multiclass", "multilabel", "ordinal"]
    num_outputs: Callable[[int], int]
    loss: Callable[["Tensor", "Tensor"], "Tensor"]
    logits: Callable[["Tensor"], "Tensor"]
    probabilities: Callable[[Floats], Floats]
    log_probabilities: Callable[["Tensor"], "Tensor"]
    odds: Callable[[Floats], Floats]
    called: Callable[[Floats], Integers]

    @property
    def has_findings(self) -> bool:
        """Whether an image may have several of what it is asked for, or none."""
        return self.name == "multilabel"


def cross_entropy(outputs: "Tensor", targets: "Tensor") -> "Tensor":
    """Mean cross-entropy, in nats."""
    import torch.nn.functional as F

    return F.cross_entropy(outputs, targets)


def masked_bce(outputs: "Tensor", targets: "Tensor") -> "Tensor":
    """The mean binary cross-entropy over what is known of a batch, in nats; 0 where nothing is."""
    import torch.nn.functional as F

    known = targets.isnan().logical_not().to(outputs.dtype)
    total = F.binary_cross_entropy_with_logits(outputs, targets.nan_to_num(), weight=known, reduction="sum")
    return total / known.sum().clamp(min=1)


def corn(outputs: "Tensor", targets: "Tensor") -> "Tensor":
    """The loss of CORN: output k tells, among the images of grade k or more, those of more than k.

    The binary cross-entropies of all outputs, each over its own images, are summed and divided by the number of their
    terms.

    Source: Shi, Cao, Raschka, Pattern Analysis and Applications 26 (2023), arXiv 2111.08851, equation 6.
    """
    import torch
    import torch.nn.functional as F

    grades = torch.arange(outputs.shape[1], device=outputs.device)
    among = (targets[:, None] >= grades).to(outputs.dtype)  # (B, O)
    more = (targets[:, None] > grades).to(outputs.dtype)
    return F.binary_cross_entropy_with_logits(outputs, more, weight=among, reduction="sum") / among.sum()


def corn_logits(outputs: "Tensor") -> "Tensor":
    """The logarithms of the probabilities of grades `(B, O + 1)`: log p_k = log P(y > k - 1) + log P(y <= k | y >= k).

    Softmax of them gives the probabilities.
    """
    import torch.nn.functional as F

    above = F.pad(F.logsigmoid(outputs).cumsum(dim=1), (1, 0))  # (B, C): log P(y >= k)
    return above + F.pad(F.logsigmoid(-outputs), (0, 1))


def corn_called(logits: Floats) -> Integers:
    """The highest grade that is likelier reached than not, as the authors; the likeliest one may be another."""
    reached = np.cumsum(softmax(logits, axis=1)[:, ::-1], axis=1)[:, ::-1]  # (n, C): P(y >= k)
    return np.asarray((reached[:, 1:] > 0.5).sum(axis=1), dtype=np.int64)


def _itself(values: Any) -> Any:
    return values


def _softmax(logits: Floats) -> Floats:
    return np.asarray(softmax(logits, axis=1))


def _log_softmax(logits: "Tensor") -> "Tensor":
    return logits.log_softmax(dim=1)


def _log_sigmoid(logits: "Tensor") -> "Tensor":
    import torch.nn.functional as F

    return F.logsigmoid(logits)


def _is_called(logits: Floats) -> Integers:
    return (logits > 0).astype(np.int64)


def _likeliest(logits: Floats) -> Integers:
    return logits.argmax(axis=1).astype(np.int64)


TASKS: Mapping[LossName, Task] = {
    "cross_entropy": Task(
        "multiclass", _itself, cross_entropy, _itself, _softmax, _log_softmax, log_odds, _likeliest,
    ),
    "bce": Task("multilabel", _itself, masked_bce, _itself, expit, _log_sigmoid, _itself, _is_called),
    "corn": Task(
        "ordinal", lambda classes: classes - 1, corn, corn_logits, _softmax, _log_softmax, log_odds, corn_called,
    ),
}  # fmt: skip


def task_of(config: Mapping[str, Any]) -> Task:
    """The task of a run, by its settings as a record has them; those stored before there were others have none."""
    return TASKS[config.get("loss") or "cross_entropy"]


def chosen_loss(asked: LossName | None, name: str, findings: bool, ordered: bool) -> LossName:
    """The loss of runs on a dataset.

    Args:
        asked: What is asked for; None for what suits the dataset.
        name: Of the dataset.
        findings: Whether its images have findings, of which several may be there.
        ordered: Whether its classes are grades.

    Raises:
        UserError: The loss is none for it.
    """
    loss = asked or ("bce" if findings else "cross_entropy")
    one_of("loss", TASKS, loss)
    if TASKS[loss].has_findings != findings:
        what, other = ("several findings", "bce") if findings else ("one class each", "cross_entropy")
        raise UserError(f"loss must be one for images of {what}, as {name} has, got {loss!r}; use --loss {other}")
    if TASKS[loss].name == "ordinal" and not ordered:
        raise UserError(
            f"loss {loss} must be of classes that are grades, got {name}, which does not say so; begin its classes.txt "
            "with a line '# ordered', and name the classes below in their order"
        )
    return loss


def scored_findings(targets: Floats) -> NDArray[np.bool_]:
    """Which findings can be scored `(C,)`: those that at least ten images have, and at least ten do not have.

    Args:
        targets: `(n, C)` of 0 and 1, nan where that is not known.
    """
    with_it, without = ((targets == value).sum(axis=0) for value in (1, 0))
    return np.asarray((with_it >= FEW_UNITS) & (without >= FEW_UNITS))
