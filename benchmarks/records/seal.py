"""A record's digest of itself: of a file that somebody edited, it is no longer that.

It is the hex SHA-256 of the record as JSON the way this program writes it, without the digest, which comes last in the
file. It tells a mistake, a bad disk or an edit; who means to deceive can make another.
"""

import hashlib
import json
from typing import Any

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


_END = b"\n}"


def _body(record: dict[str, Any]) -> bytes:
    content = {name: value for name, value in record.items() if name != DIGEST}
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False).encode()


def _tail(digest: str) -> bytes:
    return f',\n "{DIGEST}": {json.dumps(digest)}\n}}\n'.encode()
