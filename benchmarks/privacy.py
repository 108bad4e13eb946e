"""What leaves the house names no place, machine or person: texts without paths, and machines by a short digest."""

import contextlib
import functools
import getpass
import hashlib
import hmac
import platform
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

HERE = ""  # what stands for a folder whose files are named by their paths below it
_CODE = Path(__file__).resolve().parent.parent
_MACHINE_ID = Path("/etc/machine-id")
# Of folders that every machine has, which tell nothing about it.
_SYSTEM = ("proc", "sys", "dev", "usr", "lib", "lib64", "bin", "sbin", "etc")
_QUOTED = re.compile(r"""(["'])(/[^"'\n]*[^"'\n/][^"'\n]*)(?=\1)""")  # a closing quote may open the next
_BARE = re.compile(r"(?<![\w/.:~>)\]}])(?:file://)?(?:/[^\s/\"',;:()<>\[\]]+){2,}")


def host_id() -> str:
    """Tells this machine from others without its name: eight hex digits.

    A digest of a name alone could be found by trying names, so the system's own random number, which is not to leave
    the machine, is its key. Where a system has none, as in some containers, trying names is all it takes.
    """
    return _digest(platform.node(), _machine_key())


def id_of_host(name: str) -> str:
    """The same for the name of any machine, as told from here."""
    return host_id() if name == platform.node() else _digest(name, host_id().encode())


@functools.cache
def _machine_key() -> bytes:
    try:
        return _MACHINE_ID.read_bytes().strip()
    except OSError:
        return b""


@functools.cache  # a report asks once a record
def _digest(name: str, key: bytes) -> str:
    return hmac.new(key, b"host " + name.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()[:8]


def hide_places(text: str, folders: Mapping[Path, str] | None = None, hosts: Mapping[str, str] | None = None) -> str:
    """A text, such as an error's, without places, machines and the user.

    Args:
        text: The text. What was hidden already stays as it is.
        folders: What stands for folders and files that are known, by path: `<cache>`, or `HERE`, below which paths are
            relative. Our code, the packages, the home folder (`~`) and that of temporary files come on top.
        hosts: What stands for names of machines; this machine's by default, for which its `host_id` stands.

    Returns:
        The text. Of a path that lies in no known folder the last name is left: `.../name`.
    """
    known = _own_folders() | {path: stands for path, stands in (folders or {}).items() if path.is_absolute()}
    for path in sorted(known, key=lambda path: -len(str(path))):
        text = _replace_folder(text, str(path), known[path])
    text = _QUOTED.sub(lambda found: f"{found[1]}{_last(found[2])}", text)
    text = _BARE.sub(lambda found: _last(found[0]), text)
    for word, stands in (own_names() if hosts is None else {**own_users(), **hosts}).items():
        text = re.sub(rf"(?<![\w<]){re.escape(word)}(?![\w>])", stands, text)
    return text


def own_names() -> dict[str, str]:
    """What stands for this machine and its user in a text."""
    full = platform.node()
    return own_users() | {name: f"<host {host_id()}>" for name in (full, full.partition(".")[0]) if name}


def own_users() -> dict[str, str]:
    """What stands for the user in a text; `root` is nobody's name."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # no name for the user's number, as in some containers
        return {}
    return {} if user == "root" else {user: "<user>"}


def _own_folders() -> dict[Path, str]:
    folders = {_CODE: "<code>", Path(sys.prefix): "<python>", Path(tempfile.gettempdir()): "<tmp>"}
    with contextlib.suppress(RuntimeError):  # a user without one
        folders |= dict.fromkeys((Path.home(), Path.home().resolve()), "~")
    return {path: stands for path, stands in folders.items() if len(path.parts) > 1}


def _replace_folder(text: str, folder: str, stands: str) -> str:
    """`stands` in the place of a folder; where it is `HERE`, for the paths below it alone."""
    pattern = re.compile(rf"(?<![\w.~-]){re.escape(folder)}(?:(/)|(?![\w.-]|\.\w))")
    return pattern.sub(lambda found: f"{stands}/" if found[1] and stands else stands or ("" if found[1] else "."), text)


def _last(path: str) -> str:
    """A path that lies nowhere known, but for those of the system, as its last name."""
    parts = path.removeprefix("file://").strip("/").split("/")
    return path if parts[0] in _SYSTEM else f".../{parts[-1]}"
