"""The files of a raw download, anywhere below a folder, unpacked or inside zip archives.

Archives are read in place and never unpacked, so nothing can be written outside, and no scratch space is needed. Still,
an archive whose members climb out, link, or grow out of proportion is refused: it is not the one that was published.
"""

import lzma
import re
import shlex
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from benchmarks.errors import UserError
from benchmarks.images.decode import SUFFIXES
from benchmarks.storage.files import irregular
from benchmarks.storage.folders import files_below, is_litter, link_fault

MANIFEST_FILES = ("manifest.csv", "manifest.json")  # a folder with both is prepared, not raw
_PACKED = re.compile(r"\.(zip|tar|tgz|tar\.gz|7z|rar)$", re.IGNORECASE)
_PART = re.compile(r"(?P<archive>.+\.zip)\.(?P<number>\d{3})$", re.IGNORECASE)
_MAX_MEMBER_BYTES = 2**30  # no image or table of these datasets comes near it
_MAX_RATIO = 200  # deflate reaches 1032; black margins of the real files stay below 100
_RATIO_MATTERS_BYTES = 2**26


# what zipfile and its decompressors raise on damaged content; bz2 raises OSError, which a bad disk does too
DAMAGES = (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class RawFile:
    """A file of the download, or a member of one of its zip archives.

    Attributes:
        root: The folder given as --raw.
        path: Of the file or of the archive, relative to the root, with forward slashes.
        member: Name inside the archive; empty for a file.
        size: Bytes, unpacked.
        stamp: Changes when the content does: modification time in nanoseconds, or the CRC of a member.
    """

    root: Path
    path: str
    member: str
    size: int
    stamp: int

    @property
    def source(self) -> str:
        """How messages and manifests name it: `folder/image.jpg` or `archive.zip!/folder/image.jpg`."""
        return f"{self.path}!/{self.member}" if self.member else self.path

    @property
    def name(self) -> str:
        """File name with suffix."""
        return PurePosixPath(self.member or self.path).name

    @property
    def stem(self) -> str:
        """File name without the suffix of an image; other suffixes belong to the name."""
        suffix = PurePosixPath(self.name).suffix
        return self.name.removesuffix(suffix) if suffix.lower() in SUFFIXES else self.name

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of all folders above it, outermost first; an archive counts as a folder of its own name."""
        outside = PurePosixPath(self.path)
        if not self.member:
            return outside.parts[:-1]
        return (*outside.parts[:-1], outside.name.removesuffix(outside.suffix), *PurePosixPath(self.member).parts[:-1])

    @property
    def folder(self) -> str:
        """The folder that holds it, as `source` writes it."""
        return self.source.rpartition("/")[0]

    def open(self) -> IO[bytes]:
        """Opens it to read a part.

        Raises:
            UserError: The archive is damaged at this place.
        """
        path = self.root / self.path
        if not self.member:
            return path.open("rb")
        try:
            return _open_archive(path).open(self.member)
        except DAMAGES as error:
            raise _damaged(self.source, error) from error

    def read(self) -> bytes:
        """The whole content.

        Raises:
            UserError: The archive is damaged at this place.
        """
        try:
            with self.open() as file:
                return file.read()
        except DAMAGES as error:
            raise _damaged(self.source, error) from error


@dataclass(frozen=True)
class RawFiles:
    """Everything below the raw folder.

    Attributes:
        root: The folder given as --raw.
        files: Files and members of archives, sorted by source; litter and hidden files are left out.
        archives: The zip archives that were looked into.
        parts: Numbers of the parts found for each split archive that has not been joined.
        packed: Archives of other kinds, or inside archives, which are not looked into.
    """

    root: Path
    files: list[RawFile]
    archives: list[str] = field(default_factory=list)
    parts: dict[str, list[int]] = field(default_factory=dict)
    packed: list[str] = field(default_factory=list)

    def images(self, pattern: str, among: Iterable[RawFile] | None = None) -> dict[str, RawFile]:
        """Images whose stem matches a pattern in full, by lower-cased stem.

        A copy of the same size (unpacked beside its archive, or repeated in another folder) counts once.

        Raises:
            UserError: Two files of one name differ in size.
        """
        found: dict[str, RawFile] = {}
        for file in self.files if among is None else among:
            if not re.fullmatch(pattern, file.stem, re.IGNORECASE) or file.stem == file.name:
                continue
            known = found.setdefault(file.stem.lower(), file)
            if known.size != file.size:
                raise UserError(
                    f"image {file.stem} must be there once, got {known.source!r} with {known.size:,} bytes and "
                    f"{file.source!r} with {file.size:,}; remove one of them from {str(self.root)!r}"
                )
            if known.member and not file.member:
                found[file.stem.lower()] = file
        return found

    def hints(self, expected_parts: dict[str, int]) -> str:
        """What may be in the way of finding the images: archives to join or to unpack."""
        hints = []
        for archive, numbers in self.parts.items():
            last = max(*numbers, expected_parts.get(PurePosixPath(archive).name, 0))
            absent = [f"{number:03}" for number in range(1, last + 1) if number not in numbers]
            if absent:
                hints.append(f"parts {', '.join(absent)} of {archive!r} are missing: download them")
            joined = shlex.quote(str(self.root / archive))
            hints.append(f"join the parts first: cat {joined}.0* > {joined}")
        if self.packed:
            hints.append(f"unpack {self.packed[0]!r} first: zip archives alone are read in place")
        return "; ".join(hints)


def scan(root: Path) -> RawFiles:
    """Lists a raw folder. Prepared folders inside it are passed over.

    Raises:
        UserError: No such folder; or an archive is damaged, encrypted, or not safe to read.
    """
    if not root.is_dir():
        raise UserError(f"--raw must be the folder of the download, got {str(root)!r}; give the folder that holds it")
    files: list[RawFile] = []
    archives: list[str] = []
    parts: dict[str, list[int]] = {}
    packed: list[str] = []
    for path in files_below(root, _passed_over()):
        if fault := link_fault(path):
            raise UserError(
                f"link in a download must lead to a file or a folder, got {str(path)!r}, which {fault}; "
                "mend or remove it"
            )
        if kind := irregular(path):
            raise UserError(f"raw folder must hold only regular files, got {kind} at {str(path)!r}; remove it")
        relative = path.relative_to(root).as_posix()
        if part := _PART.match(relative):
            parts.setdefault(part["archive"], []).append(int(part["number"]))
        elif path.suffix.lower() == ".zip":
            archives.append(relative)
            members = _members(root, relative)
            files += members
            packed += [file.source for file in members if _PACKED.search(file.name)]
        else:
            if _PACKED.search(relative):
                packed.append(relative)
            status = path.stat()
            files.append(RawFile(root, relative, "", status.st_size, status.st_mtime_ns))
    parts = {archive: sorted(numbers) for archive, numbers in parts.items() if archive not in archives}
    return RawFiles(root, sorted(files, key=lambda file: file.source), archives, parts, packed)


def _passed_over() -> Callable[[Path], bool]:
    """Whether a folder is prepared, or was looked into before: two links may lead to one."""
    seen: set[Path] = set()

    def passed_over(folder: Path) -> bool:
        real = folder.resolve()
        known = real in seen
        seen.add(real)
        return known or all((folder / name).is_file() for name in MANIFEST_FILES)

    return passed_over


def _members(root: Path, relative: str) -> list[RawFile]:
    try:
        members = _open_archive(root / relative).infolist()
    except DAMAGES as error:
        raise UserError(
            f"archive must be a complete zip file, got {relative!r} ({error}); download it again"
        ) from error
    check_members(relative, members, (root / relative).stat().st_size)
    by_name = {member.filename: member for member in members}  # of two with one name the later one, as unzip does
    return [
        RawFile(root, relative, member.filename, member.file_size, member.CRC)
        for member in by_name.values()
        if not member.is_dir() and not any(map(is_litter, PurePosixPath(member.filename).parts))
    ]


def check_members(archive: str, members: list[zipfile.ZipInfo], size: int) -> None:
    """Refuses an archive that is not safe to read.

    Args:
        archive: For messages.
        members: What it says that it holds.
        size: Bytes of the archive itself.

    Raises:
        UserError: A member climbs out, is a link, a device or encrypted, or one or all unpack out of proportion.
    """
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        if not parts or ".." in parts or parts[:1] == ("/",) or re.match(r"[A-Za-z]:", member.filename):
            rule = "keep its members inside"
        elif (kind := stat.S_IFMT(member.external_attr >> 16)) not in (0, stat.S_IFREG, stat.S_IFDIR):
            rule = "hold no links" if kind == stat.S_IFLNK else "hold no devices"
        elif member.flag_bits & 1:
            rule = "not be encrypted"
        elif member.file_size > _MAX_MEMBER_BYTES or (
            member.file_size > _RATIO_MATTERS_BYTES and member.file_size > _MAX_RATIO * member.compress_size
        ):
            rule = f"not be a decompression bomb ({member.compress_size:,} bytes that become {member.file_size:,})"
        else:
            continue
        raise UserError(f"archive must {rule}, got {member.filename!r} in {archive!r}; download it from its source")
    total = sum(member.file_size for member in members)
    if total > _RATIO_MATTERS_BYTES and total > _MAX_RATIO * size:  # members may share their bytes
        raise UserError(
            f"archive must not be a decompression bomb ({size:,} bytes that become {total:,}), got {archive!r}; "
            "download it from its source"
        )


def _damaged(source: str, error: Exception) -> UserError:
    return UserError(f"archive must be readable, got {source!r}: {error}; download it again")


def _open_archive(path: Path) -> zipfile.ZipFile:
    """An archive, kept open: reading its directory again for each of ten thousand members would take most of the time.

    `ZipFile` guards its file position, so threads may share it.
    """
    return _keep_open(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _keep_open(path: Path, stamp: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
