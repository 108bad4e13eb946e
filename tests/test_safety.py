"""What comes from outside runs no code, starts no program, fills no memory and stays in its folder."""

import ast
import functools
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pydicom
import pytest
import raw_trees
from prepared_trees import prepare
from pydicom.uid import DeflatedExplicitVRLittleEndian
from raw_trees import picture
from tiny_images import make_images

import bench
from benchmarks.images.decode import MAX_PIXELS, decode, inspect_image, is_image, read_image, read_thumbnail
from benchmarks.images.dicom import read_tags
from benchmarks.raw import tables
from benchmarks.raw.files import RawFile, scan

ROOT = Path(__file__).resolve().parent.parent
OUR_CODE = [
    ROOT / "bench.py",
    *(path for name in ("benchmarks", "methods", "datasets") for path in ROOT.glob(f"{name}/**/*.py")),
]
# What runs code or a shell's line out of data, with the argument that makes it safe: none can where it is None.
DANGEROUS: dict[str, tuple[str, bool] | None] = {
    **dict.fromkeys(["eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads"]),
    **dict.fromkeys(["pickle.Unpickler", "pd.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load"]),
    **dict.fromkeys(["subprocess.getoutput", "subprocess.getstatusoutput", "shutil.unpack_archive", "joblib.load"]),
    "torch.load": ("weights_only", True),
    "load_state_dict": ("weights_only", True),
    "np.load": ("allow_pickle", False),
}


def dangers(tree: ast.AST) -> Iterator[str]:
    """Calls that trust what they are given, as `line: name`."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = ast.unparse(call.func)
        given = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
        needed = DANGEROUS.get(name, ("", None))
        if needed is None or (needed[0] and given.get(needed[0]) is not needed[1]):
            yield f"{call.lineno}: {name}"
        if given.get("shell") or name.endswith(".extractall"):
            yield f"{call.lineno}: {name}"


@pytest.mark.parametrize("path", OUR_CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_our_code_trusts_no_data(path: Path) -> None:
    assert list(dangers(ast.parse(path.read_text()))) == []


def test_the_search_for_dangers_finds_them() -> None:
    code = "yaml.load(x); torch.load(x); np.load(x, allow_pickle=True); eval(x); subprocess.run(x, shell=True)"
    assert len(list(dangers(ast.parse(code)))) == 5
    assert list(dangers(ast.parse("torch.load(x, weights_only=True); np.load(x, allow_pickle=False)"))) == []


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(2**16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def restated(kind: str, width: int, height: int) -> bytes:
    """A small image whose header states another size."""
    file = io.BytesIO()
    picture(1, width=48, height=36).save(file, kind)
    data = file.getvalue()
    pairs = {
        "JPEG": (struct.pack(">HH", 36, 48), struct.pack(">HH", height, width)),
        "BMP": (struct.pack("<ii", 48, 36), struct.pack("<ii", width, height)),
        "TIFF": (struct.pack("<HHII", 256, 4, 1, 48), struct.pack("<HHII", 256, 4, 1, width * height)),
        "GIF": (struct.pack("<HH", 48, 36), struct.pack("<HH", width, height)),
        "JPEG2000": (struct.pack(">II", 36, 48), struct.pack(">II", height, width)),
        "PPM": (b"48 36", f"{width} {height}".encode()),
    }
    assert pairs[kind][0] in data
    return data.replace(*pairs[kind])


BOMBS = {
    "PNG": functools.partial(png, 30_000, 30_000),
    "PNG just above": functools.partial(png, MAX_PIXELS + 1, 1),
    **{
        kind: functools.partial(restated, kind, 30_000, 30_000)
        for kind in ("JPEG", "BMP", "TIFF", "GIF", "JPEG2000", "PPM")
    },
}


@pytest.mark.filterwarnings("default")  # as for a user: an error must not depend on warnings being errors
@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_of_an_image_is_refused_wherever_images_are_read(
    tmp_path: Path, kind: str, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(BOMBS[kind]())
    readers: list[Callable[[], Any]] = [
        lambda: read_image(path, 32),
        lambda: inspect_image(path),
        lambda: read_thumbnail(path, 32),
        lambda: decode(path.read_bytes(), path.name),
    ]
    for read in readers:
        with pytest.raises(
            ValueError, match=r"image must be readable, got '.*image\.png': .*decompression bomb"
        ) as error:
            read()
        assert "\n" not in str(error.value)


def test_a_bomb_of_an_image_is_one_line_of_check_and_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_images(tmp_path / "images")
    (root / "train/dark/0.png").write_bytes(png(30_000, 30_000))
    options = ["--cache", str(tmp_path / "cache")]
    assert bench.main(["check", str(root), *options]) == 1
    assert "train/dark/0.png" in (shown := capsys.readouterr().out) and "decompression bomb" in shown
    run = ["--datasets", str(root), "--methods", "linear", "--weights", "none", "--res", "32", "--batch-size", "4"]
    assert bench.main([*run, "--results", str(tmp_path / "results"), "--dry-run", *options]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("bench.py: image must be readable, got ") and "decompression bomb" in line


def dicom(folder: Path, **changes: Any) -> bytes:
    path = folder / "image.dcm"
    raw_trees.write_dicom(path, 1, "D1-0001", "L", "CC", 0)
    header = pydicom.dcmread(path)
    for name, value in changes.items():
        setattr(header, name, value)
    header.save_as(path)
    return path.read_bytes()


def test_dicom_bombs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must have at most 89,478,485 pixels, got 900,000,000: a decompression bomb"):
        decode(dicom(tmp_path, Rows=30_000, Columns=30_000), "image.dcm")
    header = pydicom.dcmread(io.BytesIO(dicom(tmp_path)))
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    header.PixelData = bytes(2**24)
    file = io.BytesIO()
    pydicom.dcmwrite(file, header)
    assert len(file.getvalue()) < 2**16
    with pytest.raises(ValueError, match=r"DICOM cannot be read: it is deflated, which may be a decompression bomb"):
        decode(file.getvalue(), "image.dcm")
    file.seek(0)
    with pytest.raises(ValueError, match=r"DICOM must be readable, got 'image\.dcm': it is deflated"):
        read_tags(file, "image.dcm", ["PatientID"])


def test_a_format_that_starts_programs_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    picture(1).save(path, "EPS")  # Pillow would hand it to Ghostscript
    with pytest.raises(ValueError, match="image must be readable"):
        inspect_image(path)
    assert not is_image(path.rename(tmp_path / "image"))


@pytest.mark.parametrize("patient", ["/../../../D1-0001", "../D1-0001", "D1/0001", ".D1-0001"])
def test_a_header_names_no_file_outside(tmp_path: Path, capsys: pytest.CaptureFixture[str], patient: str) -> None:
    """CMMD's prepared images are named by patient; the name comes from the DICOM header and the label table."""
    raw = tmp_path / "deep/er/raw"
    raw_trees.write_dicom(raw / "1.dcm", 1, patient, "L", "CC", 0)
    raw_trees.text(raw / "labels.csv", ["ID1,LeftRight,classification", f"{patient},L,Benign"])
    before = sorted(tmp_path.rglob("*"))
    assert prepare("cmmd", raw, tmp_path / "deep/er/data", "--allow-incomplete") == 2
    assert f"name of an image must be that of a file, got {patient + '_L_CC'!r}" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def workbook(folder: Path, sheet: str) -> RawFile:
    """A workbook with another sheet, as the only file of a raw folder."""
    book = openpyxl.Workbook()
    book.save(folder / "book.xlsx")
    with zipfile.ZipFile(folder / "book.xlsx") as whole:
        content = {name: whole.read(name) for name in whole.namelist()}
    content["xl/worksheets/sheet1.xml"] = sheet.encode()
    with zipfile.ZipFile(folder / "book.xlsx", "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in content.items():
            made.writestr(name, data)
    (file,) = scan(folder).files
    return file


SHEET = (
    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>'
)
FAR = '<row r="{0}"><c r="XFD{0}" t="str"><v>x</v></c></row>'
LAUGHS = '<!DOCTYPE x [<!ENTITY a "{}">{}]>'.format(
    "ha" * 99, "".join(f'<!ENTITY {b} "{f"&{a};" * 99}">' for a, b in zip("abcdef", "bcdefg", strict=True))
)


@pytest.mark.parametrize(
    ("sheet", "reason"),
    [
        (
            SHEET.format('<row r="999999999"><c r="A999999999"><v>1</v></c></row>'),
            "it must have at most 524,288 cells",
        ),
        (SHEET.format("".join(map(FAR.format, range(1, 1000)))), "it must have at most 524,288 cells, got more"),
        (SHEET.format(" " * 2**20), "it must unpack to at most 1,000,000 bytes, got "),
        (LAUGHS + SHEET.format('<row r="1"><c r="A1" t="str"><v>&g;</v></c></row>'), "limit on input amplification"),
    ],
    ids=["far row", "far columns", "large", "entities"],
)
def test_workbooks_that_are_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sheet: str, reason: str) -> None:
    monkeypatch.setattr(tables, "_MAX_BYTES", 1_000_000)
    with pytest.raises(ValueError, match=rf"workbook must be readable, got 'book\.xlsx': {reason}") as error:
        tables.read_rows(workbook(tmp_path, sheet))
    assert "\n" not in str(error.value)
