"""Whatever an archive, a workbook or a checkpoint holds, a user gets one line, and no program in it runs.

Containers are valid and what they say of their content is not; then bytes at random.
"""

import io
import json
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import safetensors.torch
import torch
from damage import DEEP, INTEGERS, LARGE, ODD, broken, damaged, fuzz, keys, only_clean_errors, values
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_images import make_images

from benchmarks.data.dataset import open_dataset
from benchmarks.errors import UserError
from benchmarks.model.resolved_weights import Weights
from benchmarks.model.weights import load_weights, resolve_weights
from benchmarks.raw.files import RawFile, scan
from benchmarks.raw.tables import read_rows
from benchmarks.storage.files import file_sha256

pytestmark = pytest.mark.fuzz

NAMES = [
    "a.png",
    "labels.csv",
    "../out.png",
    "/etc/out.png",
    "C:\\out.png",
    "a/../../out.png",
    "a\\b.png",
    "a//b.png",
    "a/",
]
NAMES += [".", "..", "__MACOSX/a.png", "\0.png", "é.png", "x" * 300, "two\nlines.png", "inner.zip", "more.tar.gz"]


@st.composite
def odd_archives(draw: st.DrawFn) -> bytes:
    """A zip archive of members of odd names and kinds, some twice, some of a false size, packed or encrypted."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of names that come twice
        for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4)):
            member = zipfile.ZipInfo(name)
            member.external_attr = draw(st.sampled_from([0, 0o100644, 0o120777, 0o020666, 0o010644, 0o177777])) << 16
            method = draw(
                st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
            )
            archive.writestr(member, b"image,label\n1,0\n" * draw(st.sampled_from([0, 1, 9])), method)
    data = bytearray(file.getvalue())
    if draw(st.booleans()):  # what the directory says of the first member: flags, method, checksum, sizes
        offset, form = draw(st.sampled_from([(8, "<H"), (10, "<H"), (16, "<I"), (20, "<I"), (24, "<I"), (42, "<I")]))
        odd = draw(INTEGERS if form == "<H" else LARGE)
        struct.pack_into(form, data, data.index(b"PK\1\2") + offset, odd)
    return bytes(data)


@fuzz
@given(odd_archives() | odd_archives().flatmap(broken))
def test_archives_of_odd_members(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    place = tmp_path_factory.mktemp("raw")
    (place / "raw").mkdir()
    (place / "raw/download.zip").write_bytes(data)
    with only_clean_errors():
        for file in scan(place / "raw").files:
            with only_clean_errors():
                assert len(file.read()) == file.size
    assert sorted(path.name for path in place.rglob("*")) == ["download.zip", "raw"]


def test_of_two_members_with_one_name_the_later_one_counts(tmp_path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "download.zip", "w") as archive:
        warnings.simplefilter("ignore")
        for content in ("first", "second one"):
            archive.writestr("labels.csv", content)
    (file,) = scan(tmp_path).files
    assert file.read() == b"second one" and file.size == len("second one")


def workbook() -> bytes:
    """A label table of numbers, texts, a formula and a date."""
    book = openpyxl.Workbook()
    sheet = book.create_sheet("labels", 0)
    for row in (["image", "label", "date"], ["a.png", 1, "=1+1"], ["b.png", 2.5, "2026-01-01"], ["c.png", True, None]):
        sheet.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


@st.composite
def odd_workbooks(draw: st.DrawFn, data: bytes) -> bytes:
    """A workbook with one of the files inside it broken or gone, or with values in its XML replaced by odd ones."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw(st.sampled_from(sorted(members)))
    how = draw(st.sampled_from(["value", "value", "value", "bytes", "drop"]))
    if how == "drop":
        del members[name]
    elif how == "bytes":
        members[name] = draw(broken(members[name]))
    else:
        pieces = members[name].split(b'"')  # every second one is the value of an attribute
        place = draw(st.integers(0, len(pieces) - 1))
        odd = st.sampled_from([*ODD, "0", "-1", "A1048577", "XFD1:XFE9", "&#0;", "&x;", "999999999999", "rId9"])
        pieces[place] = draw(odd).encode(errors="surrogatepass")
        members[name] = b'"'.join(pieces)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return file.getvalue()


@fuzz
@given(odd_workbooks(workbook()))
def test_workbooks_of_odd_parts(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = tmp_path_factory.getbasetemp()
    (root / "labels.xlsx").write_bytes(data)
    with only_clean_errors():
        for row in read_rows(RawFile(root, "labels.xlsx", "", len(data), 0)):
            assert all(isinstance(cell, str) for cell in row)


STATE = {"blocks.0.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.ones(2)}


def take(path: Path, data: bytes) -> None:
    """Loads a checkpoint as `--weights FILE` does."""
    path.write_bytes(data)
    with only_clean_errors():
        state = load_weights(Weights(str(path), "file", "x", "x", path=path, sha256=file_sha256(path)))
        assert state is not None and all(tensor.float().isfinite().all() for tensor in state.values())
    with only_clean_errors():
        resolve_weights(str(path), "vit_tiny_patch16_224", path.parent)


SAFE = safetensors.torch.save(STATE)
HEADER = json.loads(SAFE[8 : 8 + struct.unpack_from("<Q", SAFE)[0]])


@fuzz
@given(damaged(HEADER))
@example({"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}})
@example({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**63]}})
def test_safetensors_of_odd_headers(tmp_path_factory: pytest.TempPathFactory, header: Any) -> None:
    text = json.dumps(header).encode()
    content = SAFE[8 + struct.unpack_from("<Q", SAFE)[0] :]
    take(tmp_path_factory.getbasetemp() / "odd.safetensors", struct.pack("<Q", len(text)) + text + content)


@fuzz
@given(broken(SAFE))
@example(struct.pack("<Q", 2**63) + b"{}")
@example(struct.pack("<Q", len(DEEP)) + DEEP)
def test_safetensors_of_odd_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    take(tmp_path_factory.getbasetemp() / "odd.safetensors", data)


def checkpoint(content: Any, **kind: Any) -> bytes:
    """A file of torch.save."""
    file = io.BytesIO()
    torch.save(content, file, **kind)
    return file.getvalue()


@fuzz
@given(broken(checkpoint(STATE)) | broken(checkpoint(STATE, _use_new_zipfile_serialization=False)))
def test_checkpoints_of_odd_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    take(tmp_path_factory.getbasetemp() / "odd.pth", data)


@fuzz
@given(st.dictionaries(keys, values, max_size=3), st.sampled_from(["model", "state_dict", "model_ema", "x"]))
@example({"head.bias": None}, "model")
def test_checkpoints_of_odd_values(tmp_path_factory: pytest.TempPathFactory, content: Any, name: str) -> None:
    for state in (content, {name: content}, {name: STATE | content}, list(content)):
        take(tmp_path_factory.getbasetemp() / "odd.pth", checkpoint(state))


class Program:
    """Pickled as a call."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("legacy", [False, True])
def test_no_checkpoint_runs_a_program(tmp_path: Path, legacy: bool) -> None:
    mark = tmp_path / "ran"
    pickle.loads(pickle.dumps(Program(mark)))
    mark.unlink()  # so it would run
    path = tmp_path / "evil.pth"
    path.write_bytes(checkpoint({**STATE, "x": Program(mark)}, _use_new_zipfile_serialization=not legacy))
    with pytest.raises(UserError, match="save it again as safetensors"):
        resolve_weights(str(path), "vit_tiny_patch16_224", tmp_path)
    assert not mark.exists()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("fuzz") / "images")


@pytest.mark.parametrize(
    ("name", "content"), [("classes.txt", b"# ordered\nbright\ndark\n"), ("bit_depth.txt", b"12\n")]
)
@fuzz
@given(st.data())
def test_a_dataset_of_odd_notes(images: Path, name: str, content: bytes, data: st.DataObject) -> None:
    path = images / name
    path.write_bytes(
        data.draw(broken(content) | st.sampled_from(ODD).map(lambda text: text.encode(errors="surrogatepass")))
    )
    with only_clean_errors():
        dataset = open_dataset(str(images), images.parent, images.parent / "cache")
        assert sorted(dataset.classes) == ["bright", "dark"] and dataset.bit_depth is None
    path.unlink()
