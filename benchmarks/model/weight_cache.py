"""Weights that were downloaded or converted: safetensors in the cache, each beside its SHA-256."""

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.storage.files import file_sha256, not_writable


def cache_name(backbone: str, *others: str) -> str:
    """Name of a file for a backbone, whatever its name holds; `others` follow, each behind a dot."""
    plain = re.sub(r"[^\w.-]+", "_", backbone)
    if plain != backbone:  # two may become the same
        plain += f".{hashlib.sha256(backbone.encode()).hexdigest()[:8]}"
    return ".".join([plain, *others, "safetensors"])


def timm_name(cfg: Any) -> str:
    """Name of a file for weights of timm's, by the configuration that timm has of them."""
    return f"{cfg.architecture}.{cfg.tag or 'default'}.safetensors"


def store(state: Mapping[str, Tensor], path: Path, about: Mapping[str, str | None] | None = None) -> str:
    """Writes a state dict and its digest, each by rename, the digest last; returns the digest.

    Args:
        state: Weights by name.
        path: The file.
        about: What is to be known of it, kept beside its digest for `read_about`.

    Raises:
        MachineError: The cache cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _write(state, path, about)
    except (OSError, SafetensorError) as error:
        raise not_writable(path.parent, error, "cache") from error


def read_about(path: Path) -> dict[str, str | None]:
    """What `store` kept beside the digest of a file."""
    return dict(json.loads(path.with_suffix(".sha256").read_text().partition("\n# ")[2] or "{}"))


def verified_digest(path: Path) -> str | None:
    """The digest of a cached file; None where there is none or it is damaged, so that it is made again."""
    digest_file = path.with_suffix(".sha256")
    if not path.is_file() or not digest_file.is_file():
        return None
    stored = digest_file.read_bytes().split()[:1]
    digest = file_sha256(path)
    if stored == [digest.encode()]:
        return digest
    print(f"cached weights {path} are damaged (SHA-256 differs): making them again", file=sys.stderr)
    return None


def _write(state: Mapping[str, Tensor], path: Path, about: Mapping[str, str | None] | None) -> str:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, made)
        digest = file_sha256(made)
        digest_file = made.with_suffix(".sha256")
        digest_file.write_text(f"{digest}  {path.name}\n" + (f"# {json.dumps(about)}\n" if about else ""))
        made.replace(path)
        digest_file.replace(path.with_suffix(".sha256"))
    return digest
