"""A record's digest of itself: of a file that somebody edited, it is no longer that.

It is the hex SHA-256 of the record as JSON the way this program writes it, without the digest, which comes last in the
file. It tells a mistake, a bad disk or an edit; who means to deceive can make another.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.errors import UserError
from benchmarks.storage.files import parse_as, parse_json, read_regular

DIGEST = "sha256"  # its key


def sealed(record: dict[str, Any]) -> bytes:
    """A record's file, with the digest of what else it holds; one that the record has from before is left out."""
    body = _body(record)
    return body.removesuffix(_END) + _tail(hashlib.sha256(body).hexdigest())


def is_sealed_as(data: bytes, record: dict[str, Any]) -> bool:
    """Whether a file holds what was stored; true where it has no digest, as none was stored in former times.

    Args:
        data: The file.
        record: What it holds.
    """
    digest = record.get(DIGEST)
    if digest is None:
        return True
    tail = _tail(str(digest))
    # As JSON again only where spaces or line ends were changed: it takes as long as all other reading.
    body = data.removesuffix(tail) + _END if data.endswith(tail) else _body(record)
    return hashlib.sha256(body).hexdigest() == digest


def read_unchanged(path: Path, model: TypeAdapter[Any], name: str) -> dict[str, Any]:
    """What a sealed file holds.

    Args:
        path: The file.
        model: That it follows.
        name: What it is called in messages.

    Raises:
        UserError: It does not follow the model, or is not what was stored.
        OSError: It cannot be read.
    """
    data = read_regular(path)
    parse_as(model, data, name)
    content: dict[str, Any] = parse_json(data)
    if not is_sealed_as(data, content):
        raise UserError("its content has changed since it was stored")
    return content


_END = b"\n}"


def _body(record: dict[str, Any]) -> bytes:
    content = {name: value for name, value in record.items() if name != DIGEST}
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False).encode()


def _tail(digest: str) -> bytes:
    return f',\n "{DIGEST}": {json.dumps(digest)}\n}}\n'.encode()
