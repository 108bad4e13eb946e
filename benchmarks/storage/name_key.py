"""The key with which names of images and groups are hashed: made once, kept in the dataset's folder, never in results.

Who has the images may have it: with both, hashed names can be found again; with the results alone they cannot.
"""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from benchmarks.errors import MachineError, UserError
from benchmarks.storage.files import read_regular

KEY_FILE = ".names-key"  # beside `train`; no image, as its name begins with a dot
_HEX_DIGITS = 64


def make_key(root: Path) -> None:
    """Makes the key of a dataset, for its owner alone, unless there is one.

    Raises:
        MachineError: It cannot be written into the dataset's folder.
    """
    path, made = root / KEY_FILE, root / f"{KEY_FILE}.{secrets.token_hex(8)}"
    if path.exists():
        return
    try:
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(_HEX_DIGITS // 2) + "\n")
        with contextlib.suppress(FileExistsError):  # of two that race, the first wins
            os.link(made, path)
    except OSError as error:
        raise MachineError(
            f"key for --hash-names must be kept in the dataset's folder, got {str(path)!r} ({error.strerror}): let it "
            "be written once, or put a key there"
        ) from error
    finally:
        made.unlink(missing_ok=True)


def read_key(root: Path) -> bytes:
    """The key of a dataset.

    Raises:
        UserError: There is none, it cannot be read, or it is damaged.
    """
    path = root / KEY_FILE
    try:
        text = read_regular(path).decode(errors="replace").strip()
    except OSError as error:
        raise UserError(
            f"key for --hash-names must be readable, got {str(path)!r} ({error.strerror}): ask its owner for it, or "
            "put it back"
        ) from error
    if not re.fullmatch(f"[0-9a-f]{{{_HEX_DIGITS}}}", text):
        raise UserError(
            f"key for --hash-names must be {_HEX_DIGITS} hex digits, got others in {str(path)!r}: put back the one "
            "with which stored names were hashed, or delete it and run with --overwrite"
        )
    return bytes.fromhex(text)


def hashed(name: str, kind: str, key: bytes) -> str:
    """A name as 32 hex digits, the same for the same name and key.

    Args:
        name: Of an image or a group.
        kind: What it is the name of; equal names of two kinds are hashed apart.
        key: The dataset's.
    """
    text = f"{kind}\0{name}".encode(errors="surrogateescape")
    return hmac.new(key, text, hashlib.sha256).hexdigest()[:32]


def key_id(key: bytes) -> str:
    """Tells keys apart without telling them."""
    return hashed("", "key", key)[:8]
