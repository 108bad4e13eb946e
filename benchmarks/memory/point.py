"""One point of the memory grid: the setting whose memory is measured on a GPU or predicted without one."""

from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from benchmarks.choices import DEFAULT_BACKBONE
from benchmarks.config import Attention, LossName, Precision, Savers
from benchmarks.names import variant_name


@dataclass(frozen=True)
class MemoryPoint(Savers):
    """One setting whose memory is asked for; `Savers` are settings of it too.

    Attributes:
        method: Name in the table of methods.
        resolution: Image side asked for (px).
        batch_size: Images a step.
        backbone: Its name, with its settings.
        num_classes: Number of classes C.
        precision: Of the forward pass.
        attention: Attention backend.
        grad_checkpointing: Whether blocks recompute their activations in the backward pass.
        preload: Whether a method with an extractor trains on preloaded features, the backbone off the GPU.
        loss: With which it trains; it says how many outputs the head has.
        options: Departures from the method's defaults, as (name, value).
        preload_limit: Bytes that preloading may allocate; None for what another phase does, or little more than one
            image takes.
    """

    method: str
    resolution: int
    batch_size: int = 16
    backbone: str = DEFAULT_BACKBONE
    num_classes: int = 5
    precision: Precision = "fp32"
    attention: Attention = "eager"
    grad_checkpointing: bool = False
    preload: bool = True
    options: tuple[tuple[str, Any], ...] = ()
    loss: LossName = "cross_entropy"
    preload_limit: int | None = None

    def __post_init__(self) -> None:
        # JSON and YAML have lists for tuples, and a point must be hashable.
        options = ((name, tuple(value) if isinstance(value, list) else value) for name, value in self.options)
        object.__setattr__(self, "options", tuple(options))

    @property
    def name(self) -> str:
        """Readable and unique; good for a file's name."""
        parts = [
            self.method,
            quote(self.backbone, safe="[]=,+"),
            f"{self.resolution}px",
            f"b{self.batch_size}",
            self.precision,
        ]
        parts += [self.attention, f"c{self.num_classes}"]
        parts += ["ckpt"] * self.grad_checkpointing + ["live"] * (not self.preload)
        parts += [f"{name}={value}" for name, value in self.used_savers.items()]
        parts += [self.loss] * (self.loss != "cross_entropy")
        parts += [] if self.preload_limit is None else [f"preload={self.preload_limit}"]
        return "_".join(parts + [f"{name}={value}" for name, value in self.options])

    @property
    def variant(self) -> str:
        """The method with its options, as `--methods` takes it and tables show it."""
        return variant_name(self.method, dict(self.options))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MemoryPoint":
        """The point from its `asdict`, also after a round trip through JSON."""
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """All of it, for a record."""
        return asdict(self)
