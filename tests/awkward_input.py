"""Examples for awkward.py: folders, weights and options that a user may come with."""

import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import torch
from awkward import RUN, Bench, example, last, noted, outcome
from deep_images import dicom, folder, marked, noise, palette_dicom, png16, tiff16
from PIL import Image
from tiny_images import make_images

SEVERAL = 3  # pages of one file


# ---- pixels ----


@example("12-bit noise, a mark of value 4400 in one class")
def _(bench: Bench) -> str:
    folder(bench.place / "xray", lambda name, number: png16(marked(name, number)))
    return outcome(bench, bench("run", *RUN, "xray"))


@example("the same, with bit_depth.txt saying 12")
def _(bench: Bench) -> str:
    folder(bench.place / "xray", lambda name, number: png16(marked(name, number)))
    (bench.place / "xray/bit_depth.txt").write_text("12\n")
    return outcome(bench, bench("run", *RUN, "xray")) + "; check: " + noted(bench("check", "xray"), "4400")


@example("16-bit RGB PNG of 12 bits (mean 127.5)")
def _(bench: Bench) -> str:
    folder(bench.place / "rgb", lambda _, number: png16(noise(number, channels=3)))
    return outcome(bench, bench("run", *RUN, "rgb"))


@example("16-bit RGB TIFF of 12 bits (mean 127.5)")
def _(bench: Bench) -> str:
    folder(bench.place / "rgb", lambda _, number: tiff16(noise(number, channels=3)), ".tif")
    return outcome(bench, bench("run", *RUN, "rgb"))


@example("DICOM palette of 16 bits, greys from black to half of white (mean 63.7)")
def _(bench: Bench) -> str:
    colours = np.repeat(np.linspace(0, 2**15, 256).astype(np.uint16)[:, None], 3, axis=1)

    def build(_: str, number: int) -> bytes:
        return palette_dicom(np.random.default_rng(number).integers(0, 256, (24, 32)).astype(np.uint8), colours)

    folder(bench.place / "palette", build, ".dcm")
    return outcome(bench, bench("run", *RUN, "palette"))


def pages(bench: Bench, suffix: str) -> str:
    """An ordinary dataset whose first image is a file of several pages: what run and check say."""
    make_images(bench.place / "images")
    pixels = [Image.fromarray(np.full((40, 48, 3), 60 * number, np.uint8)) for number in range(SEVERAL)]
    first = bench.place / f"images/train/bright/many{suffix}"
    pixels[0].save(first, save_all=True, append_images=pixels[1:])
    return f"run {outcome(bench, bench('run', *RUN, 'images'))}; check {noted(bench('check', 'images'), 'many')}"


@example("a TIFF of three pages")
def _(bench: Bench) -> str:
    return pages(bench, ".tif")


@example("an animated GIF")
def _(bench: Bench) -> str:
    return pages(bench, ".gif")


@example("a DICOM of three frames")
def _(bench: Bench) -> str:
    frames = np.zeros((SEVERAL, 24, 32), np.uint8)

    def build(_: str, number: int) -> bytes:
        return dicom(frames[0] + np.uint8(number), NumberOfFrames=SEVERAL, PixelData=frames.tobytes())

    folder(bench.place / "frames", build, ".dcm")
    return outcome(bench, bench("run", *RUN, "frames"))


@example("a folder of one's own DICOM files")
def _(bench: Bench) -> str:
    folder(bench.place / "own", lambda name, number: dicom(noise(number) // (1 + (name == "marked"))), ".dcm")
    checked = bench("check", "own")
    return f"run {outcome(bench, bench('run', *RUN, 'own'))}; check {last(checked)}"


@example("8 of 10 training images behind a linked sub-folder: images trained on")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    for name in ("bright", "dark"):
        (bench.place / "elsewhere" / name).mkdir(parents=True)
        for path in sorted((bench.place / "images/train" / name).iterdir())[1:]:
            path.rename(bench.place / "elsewhere" / name / path.name)
        (bench.place / "images/train" / name / "more").symlink_to(bench.place / "elsewhere" / name)
    ended = bench("run", *RUN, "images")
    records = bench.records()
    counts = records[0]["run"]["dataset"]["counts"]["train"] if records else {}
    return f"exit {ended.status}: {sum(counts.values())}; check {noted(bench('check', 'images'), 'train')}"


@example("a sub-folder that links to its own class")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    (bench.place / "images/train/dark/again").symlink_to(bench.place / "images/train/dark")
    return outcome(bench, bench("run", *RUN, "images"))


@example("a dangling link among images")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    (bench.place / "images/train/dark/9.png").symlink_to(bench.place / "gone.png")
    return outcome(bench, bench("run", *RUN, "images"))


# ---- splits ----


@example("split of patients with 60, 50, 60 images and 250 with one: patients in train, val, test")
def _(bench: Bench) -> str:
    text = (
        "from collections import Counter\n"
        "from benchmarks.prepare.splits import Item, assign\n"
        "sizes = (60, 50, 60, *[1] * 250)\n"
        "items = [Item(f'{g}-{i}', 0, f'g{g}', f'p{g}-{i}', None) for g, n in enumerate(sizes) for i in range(n)]\n"
        "splits = assign(items, {}, 0).splits\n"
        "count = Counter(split for split, _ in {(splits[item.key], item.group) for item in items})\n"
        "print(*(count[split] for split in ('train', 'val', 'test')))"
    )
    return bench.python(text).said.strip()


@example("one image byte for byte in train and test")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    shutil.copy(bench.place / "images/train/dark/0.png", bench.place / "images/test/dark/9.png")
    plain = last(bench("run", *RUN, "images"))
    return f"{plain}; --allow-leaks {noted(bench('run', *RUN, 'images', '--allow-leaks'), '⊗')}"


# ---- failures ----


@example("weights that are NaN")
def _(bench: Bench) -> str:
    import timm

    make_images(bench.place / "images")
    state = timm.create_model("vit_tiny_patch16_224").state_dict()
    state["blocks.3.mlp.fc1.weight"][0, 0] = torch.nan
    torch.save(state, bench.place / "bad.pth")
    return outcome(bench, bench("run", *RUN, "images", "--weights", "bad.pth"))


PLUGIN = '''
"""A linear probe that asks for a value where a prediction has none."""
from methods.probes.linear import METHOD as LINEAR
from dataclasses import replace

def build(backbone, num_classes, config):
    model = LINEAR.build(backbone, num_classes, config)
    model.register_forward_pre_hook(lambda module, inputs: float(next(module.parameters()).sum()) and None)
    return model

METHOD = replace(LINEAR, name="asks", title="Asks", build=build)
'''


@example("a method whose memory cannot be predicted")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    (bench.place / "asks.py").write_text(PLUGIN)
    ended = bench("run", "--plugin", "asks.py", "--methods", "asks", *RUN[2:], "images")
    return outcome(bench, ended)


@contextmanager
def refusing_hub() -> Iterator[str]:
    """The address of a model hub that answers, and refuses everything."""

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("X-Error-Message", "access to this model is restricted")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@example("a hub that refuses the weights")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    with refusing_hub() as address:
        return last(bench("run", *RUN, "images", "--weights", "auto", HF_ENDPOINT=address, HF_HUB_ETAG_TIMEOUT="5"))


@example("--preload on with full fine-tuning")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    return last(bench("run", *RUN, "images", "--methods", "full", "--preload", "on"))


@example("a file name with a newline")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    path = bench.place / "images/train/dark/0.png"
    path.rename(path.with_name("two\nlines.png"))
    return f"check {last(bench('check', 'images'))}; run {outcome(bench, bench('run', *RUN, 'images'))}"


@example("two datasets whose folders are both called `images`: titles in the table")
def _(bench: Bench) -> str:
    for name in ("a", "b"):
        make_images(bench.place / name / "images")
        shutil.copy(bench.place / name / "images/train/dark/0.png", bench.place / name / "images/train/dark/0b.png")
        (bench.place / name / "images/train/dark/0.png").unlink()
    (bench.place / "b/images/train/dark/1.png").unlink()
    bench("run", *RUN, "a/images", "b/images")
    labels = {
        label
        for path in bench.place.glob("results/tables/*.tex")
        for label in re.findall(r"\\label{.*?}", path.read_text())
    }
    headings = {
        line
        for path in bench.place.glob("results/tables/results.md")
        for line in path.read_text().splitlines()
        if line.startswith("#")
    }
    return f"{sorted(headings)}, labels {sorted(labels)}"


@example("adapter.reduction=1000")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    ended = bench("run", *RUN, "images", "--methods", "adapter", "--set", "adapter.reduction=1000")
    return outcome(bench, ended)


@example("vpt.num_prompt_tokens=0")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    return outcome(bench, bench("run", *RUN, "images", "--methods", "vpt", "--set", "vpt.num_prompt_tokens=0"))


@example("lora.rank=0")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    return outcome(bench, bench("run", *RUN, "images", "--methods", "lora", "--set", "lora.rank=0"))


@example("FPT at 16 px: one token")
def _(bench: Bench) -> str:
    make_images(bench.place / "images")
    return outcome(bench, bench("run", *RUN, "images", "--methods", "fpt", "--res", "16"))
