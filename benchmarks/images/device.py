"""Which scanner or camera a file names: DICOM's maker and model, or EXIF's."""

from pathlib import Path

from PIL import ExifTags

from benchmarks.images.decode import open_image
from benchmarks.images.dicom import HEAD, is_dicom, read_tags

_TAGS = ("Manufacturer", "ManufacturerModelName")


def read_device(path: Path) -> str:
    """Maker and model; empty where the file names none. The file is one that can be decoded."""
    with path.open("rb") as file:
        head = file.read(HEAD)
        file.seek(0)
        if is_dicom(head):
            tags = read_tags(file, path.name, _TAGS)
            names = [tags[tag] for tag in _TAGS]
        else:
            with open_image(file) as image:
                exif = image.getexif()
            names = [str(exif.get(tag) or "") for tag in (ExifTags.Base.Make, ExifTags.Base.Model)]
    return " ".join(" ".join(names).replace("\0", " ").split())
