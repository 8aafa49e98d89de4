"""Some 300 odd image files in one run of `detect`: which are found in, which are named and skipped, and whether pixels
are those of Pillow.

    python benchmarks/odd_images.py [--folder odd] [--model FILE] [--json]

The files are made here: formats, depths, colours, orientations and places where they are said, several pages and
frames, and files that are cut short, empty, damaged, misnamed or claim to be huge. Without --model an untrained network
is taken. "crashes" counts files with neither a result nor a line of their own, and a run that ends otherwise than with
exit code 0 or 3; "unlike" are files whose pixels differ by more than 3 levels from Pillow's after
ImageOps.exif_transpose, in the mean of the worst channel of a 4 x 4 block: decoders may differ in single pixels.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from singleshot.errors import DataError
from singleshot.images.decode import read_image

WIDTH, HEIGHT = 72, 48
Files = Iterator[tuple[str, bytes]]


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth, so that lossy coders keep it, and different in its four quarters, so that every turn shows."""
    y, x = np.mgrid[0:height, 0:width]
    red = np.where((x < width / 2) & (y < height / 2), 220, 40)
    return np.stack([red, 40 + 160 * x // width, 30 + 180 * y // height], axis=2).astype(np.uint8)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


RGB = Image.fromarray(picture())


def in_mode(mode: str) -> Image.Image:
    if mode == "RGBA":
        image = RGB.copy()
        image.putalpha(RGB.getchannel(1))
        return image
    if mode == "LA":
        return Image.merge("LA", (RGB.convert("L"), RGB.getchannel(1)))
    if mode.startswith("I;16"):
        order = ">" if mode.endswith("B") else "<"
        return Image.frombytes(mode, RGB.size, (np.asarray(RGB.convert("L"), f"{order}u2") * 257).tobytes())
    return RGB.convert(mode)


# ---------------------------------------------------------------------------------------------- by hand


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(depth: int, colour: int, interlaced: bool, extra: bytes = b"", sides: tuple[int, int] | None = None) -> bytes:
    """Of any depth and colour type; palette: 4 bits and less have as many colours."""
    width, height = sides or (WIDTH, HEIGHT)
    rgb = picture().astype(np.uint32)
    grey = rgb.mean(axis=2)[..., None].astype(np.uint32)
    alpha = rgb[..., 1:2]
    samples = {0: grey, 2: rgb, 3: grey, 4: np.concatenate([grey, alpha], 2), 6: np.concatenate([rgb, alpha], 2)}[
        colour
    ]
    samples = samples * 257 if depth == 16 else samples >> (8 - depth)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for x0, y0, dx, dy in passes if interlaced else [(0, 0, 1, 1)]:
        for row in samples[y0::dy, x0::dx]:
            if depth == 16:
                packed = row.astype(">u2").tobytes()
            else:
                bits = np.unpackbits(row.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - depth :]
                packed = np.packbits(bits.ravel()).tobytes()
            rows += b"\0" + packed if len(row) else b""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    if colour == 3:
        steps = np.linspace(0, 255, 1 << depth).astype(np.uint8)
        extra = png_chunk(b"PLTE", np.stack([steps, steps[::-1], steps], axis=1).tobytes()) + extra
    return b"\x89PNG\r\n\x1a\n" + head + extra + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def tiff(
    bits: int, channels: int = 1, kind: int = 1, photometric: int | None = None, order: str = "<", **tags: int
) -> bytes:
    """An uncompressed TIFF of any depth and kind of samples (1 uint, 2 int, 3 float)."""
    rgb = picture()
    samples = rgb.mean(axis=2)[..., None].repeat(channels, 2) if channels != 3 else rgb
    if kind == 3:
        body = (samples / 255).astype(f"{order}f{bits // 8}").tobytes()
    elif bits % 8 == 0:
        top = (1 << (bits - (kind == 2))) - 1
        body = (samples / 255 * top).astype(f"{order}{'i' if kind == 2 else 'u'}{bits // 8}").tobytes()
    else:
        values = (samples.astype(np.uint32) * ((1 << bits) - 1) // 255).reshape(HEIGHT, -1, 1)
        each = (values >> np.arange(bits - 1, -1, -1)) & 1
        body = np.packbits(each.reshape(HEIGHT, -1).astype(np.uint8), axis=1).tobytes()
    entries = {
        256: (3, [WIDTH]), 257: (3, [HEIGHT]), 258: (3, [bits] * channels), 259: (3, [tags.get("compression", 1)]),
        262: (3, [photometric if photometric is not None else (2 if channels >= 3 else 1)]), 273: (4, [0]),
        277: (3, [channels]), 278: (4, [HEIGHT]), 279: (4, [len(body)]), 284: (3, [1]), 339: (3, [kind] * channels),
    }  # fmt: skip
    if photometric == 3:
        ramp = np.linspace(0, 65535, 1 << bits).astype(int).tolist()
        entries[320] = (3, ramp + ramp[::-1] + ramp)
    start, late, rows = 8 + 2 + 12 * len(entries) + 4, b"", b""
    for tag, (form, values) in sorted(entries.items()):
        packed = struct.pack(order + {3: "H", 4: "I"}[form] * len(values), *values)
        place = start + len(late)
        if len(packed) > 4:
            late += packed
            packed = struct.pack(order + "I", place)
        if tag == 273:
            at = len(rows) + 8
        rows += struct.pack(order + "HHI", tag, form, len(values)) + packed.ljust(4, b"\0")
    rows = rows[:at] + struct.pack(order + "I", start + len(late)) + rows[at + 4 :]
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries))
    return head + rows + bytes(4) + late + body


def bmp(bits: int, masks: tuple[int, ...] = (), rows_down: bool = False, core: bool = False) -> bytes:
    """24 bits, or 16 bits with masks; from the top, or with OS/2's short header."""
    rgb = picture() if rows_down else picture()[::-1]
    if bits == 16:
        parts = [(rgb[..., k].astype(np.uint16) >> 3) << (10 - 5 * k) for k in range(3)]
        body = (parts[0] | parts[1] | parts[2]).astype("<u2").tobytes()
    else:
        body = rgb[..., ::-1].tobytes()
    if core:
        head = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits)
    else:
        height = -HEIGHT if rows_down else HEIGHT
        head = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, 3 if masks else 0, len(body), 0, 0, 0, 0)
        head += struct.pack(f"<{len(masks)}I", *masks)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(n + struct.pack("<I", len(b)) + b + bytes(len(b) % 2) for n, b in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


# ---------------------------------------------------------------------------------------------- turns


def exif(value: int, order: str = "<") -> bytes:
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, value, 0)
    return (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, 1) + entry + bytes(4)


def xmp(value: int, as_element: bool = False) -> bytes:
    turn = (
        f"><tiff:Orientation>{value}</tiff:Orientation></rdf:Description>"
        if as_element
        else f' tiff:Orientation="{value}"/>'
    )
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description{turn}</rdf:RDF></x:xmpmeta>'.encode()


def raw_profile(value: int, prefix: bytes = b"") -> bytes:
    block = prefix + exif(value)
    return b"\nexif\n%8d\n" % len(block) + block.hex().encode() + b"\n"


def webp_with(value: int, name: bytes, body: bytes) -> bytes:
    image = saved(RGB, "WEBP", lossless=True)[12:]
    flag = 8 if name == b"EXIF" else 4
    head = bytes([flag, 0, 0, 0]) + (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
    start = next(k for k in range(len(image)) if image[k : k + 4] == b"VP8L")
    size = struct.unpack_from("<I", image, start + 4)[0]
    return riff((b"VP8X", head), (b"VP8L", image[start + 8 : start + 8 + size]), (name, body))


def png_with(*chunks: bytes, late: bool = False) -> bytes:
    data = saved(RGB, "PNG")
    at = len(data) - 12 if late else 33
    return data[:at] + b"".join(chunks) + data[at:]


def jpeg_with(*bodies: bytes) -> bytes:
    data = saved(RGB, "JPEG", quality=95)
    return data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(b) + 2) + b for b in bodies) + data[2:]


PREFIX = b"Exif\0\0"
KEY, RAW_KEY, XAP = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"http://ns.adobe.com/xap/1.0/\0"
TURNS: dict[str, Callable[[int], bytes]] = {
    "jpeg-exif.jpg": lambda v: jpeg_with(PREFIX + exif(v, ">")),
    "jpeg-xmp.jpg": lambda v: jpeg_with(XAP + xmp(v)),
    "jpeg-both.jpg": lambda v: jpeg_with(XAP + xmp(9 - v), PREFIX + exif(v)),
    "png-exif.png": lambda v: png_with(png_chunk(b"eXIf", exif(v))),
    "png-prefix.png": lambda v: png_with(png_chunk(b"eXIf", PREFIX + exif(v))),
    "png-raw.png": lambda v: png_with(png_chunk(b"zTXt", RAW_KEY + b"\0" + zlib.compress(raw_profile(v, PREFIX)))),
    "png-raw-text.png": lambda v: png_with(png_chunk(b"tEXt", RAW_KEY + raw_profile(v))),
    "png-xmp.png": lambda v: png_with(png_chunk(b"iTXt", KEY + b"\0\0\0\0" + xmp(v))),
    "png-xmp-packed.png": lambda v: png_with(png_chunk(b"iTXt", KEY + b"\1\0\0\0" + zlib.compress(xmp(v, True)))),
    "webp-exif.webp": lambda v: webp_with(v, b"EXIF", exif(v)),
    "webp-prefix.webp": lambda v: webp_with(v, b"EXIF", PREFIX + exif(v)),
    "webp-xmp.webp": lambda v: webp_with(v, b"XMP ", xmp(v)),
    "tiff.tif": lambda v: saved(RGB, "TIFF", tiffinfo={274: v}),
    "tiff-xmp.tif": lambda v: saved(RGB, "TIFF", tiffinfo={700: xmp(v)}),
    "avif.avif": lambda v: saved(RGB, "AVIF", quality=95, exif=exif(v)),
}  # fmt: skip


# ---------------------------------------------------------------------------------------------- all of them


def whole() -> Files:
    """Files that are in order."""
    for (depth, colour), interlaced in itertools.product(
        [(d, 0) for d in (1, 2, 4, 8, 16)]
        + [(d, 3) for d in (1, 2, 4, 8)]
        + [(d, c) for c in (2, 4, 6) for d in (8, 16)],
        (False, True),
    ):
        yield f"png-{depth}-{colour}{'-interlaced' * interlaced}.png", png(depth, colour, interlaced)
    yield "png-grey-trns.png", png(8, 0, False, png_chunk(b"tRNS", b"\0\x40"))
    yield "png-rgb-trns.png", png(8, 2, False, png_chunk(b"tRNS", b"\0\x40\0\x28\0\x1e"))
    yield "png-palette-trns.png", png(8, 3, False, png_chunk(b"tRNS", bytes(range(256))))
    yield "png-gamma.png", png(8, 2, False, png_chunk(b"gAMA", struct.pack(">I", 100000)))
    yield "png-animated.png", saved(RGB, "PNG", save_all=True, append_images=[RGB.rotate(90), RGB.rotate(180)])
    for mode, progressive, sampling in itertools.product(("RGB", "L", "CMYK"), (False, True), (0, 1, 2)):
        if mode != "L" or sampling == 0:
            options = {} if mode == "L" else {"subsampling": sampling}
            data = saved(in_mode(mode), "JPEG", quality=95, progressive=progressive, **options)
            yield f"jpeg-{mode}-{sampling}{'-progressive' * progressive}.jpg", data
    for precision, marker in ((12, 0xC1), (8, 0xC5), (16, 0xC3)):
        data = saved(RGB, "JPEG")
        at = data.index(b"\xff\xc0")
        frame = bytes([0xFF, marker]) + data[at + 2 : at + 4] + bytes([precision])
        yield f"jpeg-{precision}-bits-{marker:x}.jpg", data[:at] + frame + data[at + 5 :]
    yield "jpeg-rgb.jpg", saved(RGB, "JPEG", quality=95, keep_rgb=True)
    yield "jpeg-restarts.jpg", saved(RGB, "JPEG", quality=95, restart_marker_rows=1)
    yield "jpeg-optimised.jpeg", saved(RGB, "JPEG", quality=95, optimize=True)
    yield "jpeg-comment.jpe", saved(RGB, "JPEG", quality=95, comment=b"x" * 60_000)
    yield "jpeg-odd-sides.jpg", saved(RGB.crop((0, 0, 71, 47)), "JPEG", quality=95)
    yield "jpeg-pixel.jpg", saved(RGB.crop((0, 0, 1, 1)), "JPEG", quality=95)
    yield "jpeg-line.jpg", saved(RGB.resize((4000, 1)), "JPEG", quality=95)
    yield "jpeg-mpo.mpo", saved(RGB, "MPO", quality=95, save_all=True, append_images=[RGB.rotate(180)])
    yield "jpeg-profile.jpg", saved(RGB, "JPEG", quality=95, icc_profile=b"\0" * 3000)
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"):
        for mode in ("L", "RGB"):
            yield f"tiff-{mode}-{compression}.tif", saved(in_mode(mode), "TIFF", compression=compression)
    for mode in ("1", "P", "LA", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I;16B", "I", "F"):
        yield f"tiff-{mode.replace(';', '')}.tiff", saved(in_mode(mode), "TIFF")
    for compression in ("group3", "group4", "tiff_ccitt"):
        yield f"tiff-1-{compression}.tif", saved(in_mode("1"), "TIFF", compression=compression)
    yield "tiff-pages.tif", saved(RGB, "TIFF", save_all=True, append_images=[RGB.rotate(180)])
    yield "tiff-big.tif", saved(RGB, "TIFF", big_tiff=True)
    yield "tiff-strips.tif", saved(RGB, "TIFF", tiffinfo={278: 5})
    for bits, order in itertools.product((1, 2, 4, 8, 10, 12, 14, 16, 32, 64), "<>"):
        yield f"tiff-uint{bits}{'-mm' * (order == '>')}.tif", tiff(bits, order=order)
    for bits in (4, 12, 16, 32):
        yield f"tiff-rgb-uint{bits}.tif", tiff(bits, 3)
    for bits in (1, 4, 8):
        yield f"tiff-white-{bits}.tif", tiff(bits, photometric=0)
        yield f"tiff-palette-{bits}.tif", tiff(bits, photometric=3)
    for bits in (8, 16, 32):
        yield f"tiff-int{bits}.tif", tiff(bits, kind=2)
    for bits in (16, 32, 64):
        yield f"tiff-float{bits}.tif", tiff(bits, kind=3)
    for channels in (2, 5, 8):
        yield f"tiff-{channels}-bands.tif", tiff(8, channels)
    for compression in (6, 32_766, 34_712, 50_000, 60_000):
        yield f"tiff-compression-{compression}.tif", tiff(8, 3, compression=compression)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"bmp-{mode}.bmp", saved(in_mode(mode), "BMP")
    yield "bmp-555.bmp", bmp(16)
    yield "bmp-555-masks.bmp", bmp(16, (0x7C00, 0x3E0, 0x1F))
    yield "bmp-top-down.dib", bmp(24, rows_down=True)
    yield "bmp-os2.bmp", bmp(24, core=True)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield f"gif-{mode}.gif", saved(in_mode(mode), "GIF")
    yield "gif-interlaced.gif", saved(in_mode("P"), "GIF", interlace=1)
    yield "gif-animated.gif", saved(in_mode("P"), "GIF", save_all=True, append_images=[in_mode("P").rotate(90)])
    for mode, lossless in itertools.product(("L", "RGB", "RGBA"), (False, True)):
        yield f"webp-{mode}{'-lossless' * lossless}.webp", saved(in_mode(mode), "WEBP", quality=95, lossless=lossless)
    yield "webp-animated.webp", saved(RGB, "WEBP", lossless=True, save_all=True, append_images=[RGB.rotate(90)])
    for mode in ("L", "RGB", "RGBA"):
        yield f"avif-{mode}.avif", saved(in_mode(mode), "AVIF", quality=95)
    yield "avif-animated.avif", saved(RGB, "AVIF", quality=95, save_all=True, append_images=[RGB.rotate(90)])
    for depth in (10, 12):
        deep = (picture()[..., ::-1].astype(np.uint16) << (depth - 8)) if depth > 8 else picture()
        yield f"avif-{depth}.avif", cv2.imencode(".avif", deep, [cv2.IMWRITE_AVIF_DEPTH, depth])[1].tobytes()
    yield from jpeg_xl()
    yield "pgm.pgm", saved(in_mode("L"), "PPM")
    yield "jp2.jp2", saved(RGB, "JPEG2000")
    for form in ("PPM", "ICO", "TGA", "PCX", "DDS", "SGI", "PDF"):
        yield f"{form.lower()}.{form.lower()}", saved(RGB, form)
    yield (
        "svg.svg",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="72" height="48"><rect width="9" height="9"/></svg>',
    )
    yield "text.jpg", b"this is no picture\n" * 20
    yield "html.png", b"<!DOCTYPE html><html><body>404 not found</body></html>"


def jpeg_xl() -> Files:
    try:
        import imagecodecs
    except ImportError:
        return
    grey = picture().mean(axis=2).astype(np.uint8)
    kinds = {
        "rgb": picture(),
        "grey": grey,
        "16": picture().astype(np.uint16) * 257,
        "rgba": np.asarray(in_mode("RGBA")),
    }
    for name, image in kinds.items():
        yield f"jxl-{name}.jxl", imagecodecs.jpegxl_encode(image, lossless=True)
    yield "jxl-lossy.jxl", imagecodecs.jpegxl_encode(picture(), distance=0.5)
    yield "jxl-container.jxl", imagecodecs.jpegxl_encode(picture(), lossless=True, usecontainer=True)


def turns() -> Files:
    for (name, make), value in itertools.product(TURNS.items(), range(1, 9)):
        stem, _, suffix = name.rpartition(".")
        yield f"turn-{stem}-{value}.{suffix}", make(value)


def broken() -> Files:
    large = Image.fromarray(picture(480, 720))
    noise = np.random.default_rng(0).integers(0, 256, 600, np.uint8).tobytes()
    forms = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "avif": "AVIF"}
    for suffix, form in forms.items():
        data = saved(large, form)
        yield f"broken-empty.{suffix}", b""
        yield f"broken-10.{suffix}", data[: len(data) // 10]
        yield f"broken-50.{suffix}", data[: len(data) // 2]
        yield f"broken-head.{suffix}", data[:24]
        yield f"broken-noise.{suffix}", data[:64] + noise
        yield f"broken-middle.{suffix}", data[: len(data) // 2] + noise + data[len(data) // 2 + len(noise) :]
        yield f"broken-tail.{suffix}", data + noise
        other = "png" if suffix != "png" else "jpg"
        yield f"misnamed-{suffix}.{other}", data
    for side, what in ((0, "zero"), (65_500, "huge")):
        yield f"broken-{what}.png", png(8, 2, False, sides=(side, side))
        data = saved(RGB, "JPEG")
        at = data.index(b"\xff\xc0") + 5
        yield f"broken-{what}.jpg", data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]
        data = saved(RGB, "GIF")
        yield f"broken-{what}.gif", data[:6] + struct.pack("<HH", side, side) + data[10:]
        data = saved(RGB, "BMP")
        yield f"broken-{what}.bmp", data[:18] + struct.pack("<ii", side, side) + data[26:]
        data = saved(RGB, "TIFF")
        at = data.index(struct.pack("<HHI", 256, 4, 1)) + 8
        data = data[:at] + struct.pack("<I", side) + data[at + 4 :]
        yield f"broken-{what}.tif", data[: at + 12] + struct.pack("<I", side) + data[at + 16 :]
        data = saved(RGB, "AVIF")
        at = data.index(b"ispe") + 8
        yield f"broken-{what}.avif", data[:at] + struct.pack(">II", side, side) + data[at + 8 :]
        data = saved(RGB, "WEBP")
        yield f"broken-{what}.webp", data[:26] + struct.pack("<HH", side & 0x3FFF, side & 0x3FFF) + data[30:]
    yield (
        "broken-zero-height.jpg",
        saved(RGB, "JPEG").replace(struct.pack(">HH", HEIGHT, WIDTH), struct.pack(">HH", 0, WIDTH)),
    )


def write_all(folder: Path) -> list[Path]:
    """Every file, sorted by name."""
    paths = []
    for name, data in itertools.chain(whole(), turns(), broken()):
        path = folder / name
        assert not path.exists(), name
        path.write_bytes(data)
        paths.append(path)
    return sorted(paths)


# ---------------------------------------------------------------------------------------------- against Pillow


def by_pillow(path: Path) -> np.ndarray | None:
    """uint8 RGB, upright; None where Pillow does not read it."""
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("I", "F", "LAB"):
                return None  # of which Pillow makes no colours of 8 bits
            if image.mode.startswith("I;16"):
                bits = getattr(opened, "tag_v2", {}).get(258, (16,))[0]
                grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
                return np.stack([grey] * 3, axis=2)
            return np.asarray(image.convert("RGBA" if "transparency" in image.info else image.mode).convert("RGB"))
    except Exception:  # whatever its plug-ins raise
        return None


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """In levels, of the worst 4 x 4 block and channel; infinite where sides differ."""
    if one.shape != other.shape:
        return float("inf")
    far = np.abs(one.astype(np.float32) - other)
    rows, columns = max(1, far.shape[0] // 4), max(1, far.shape[1] // 4)
    return float(cv2.resize(far, (columns, rows), interpolation=cv2.INTER_AREA).max())


def compare(paths: list[Path]) -> dict[str, list[str]]:
    """Names by what became of them: alike, unlike, read here alone, read by Pillow alone, by neither."""
    found: dict[str, list[str]] = {key: [] for key in ("alike", "unlike", "here alone", "Pillow alone", "neither")}
    for path in paths:
        theirs = by_pillow(path)
        try:
            ours = read_image(path)
        except DataError as error:
            found["neither" if theirs is None else "Pillow alone"].append(
                f"{path.name}: {error}" if theirs is not None else path.name
            )
            continue
        if theirs is None:
            found["here alone"].append(path.name)
        else:
            far = difference(ours, theirs)
            found["alike" if far <= 3 else "unlike"].append(path.name if far <= 3 else f"{path.name} ({far:.0f})")
    return found


def untrained(folder: Path) -> Path:
    from singleshot.models import build
    from singleshot.weights.checkpoint import ModelInfo, save_checkpoint

    path, model = folder / "untrained.safetensors", build("ssd320-mini", 1).eval()
    save_checkpoint(path, model.state_dict(), ModelInfo.of(model, ("object",)))
    return path


def run_detect(model: Path, folder: Path, paths: list[Path]) -> dict[str, object]:
    """One run over all files, and which have neither a result nor a line."""
    command = [sys.executable, "-m", "singleshot", "detect", str(model), "-", "--json", "--no-draw"]
    names = "".join(f"{path}\n" for path in paths).encode()
    done = subprocess.run(command, input=names, capture_output=True, check=False)
    images = {one["image"].partition("#")[0] for one in json.loads(done.stdout)["images"]} if done.stdout else set()
    lines = done.stderr.decode().splitlines()
    skipped = [path.name for path in paths if any(str(path) in line for line in lines)]
    lost = [path.name for path in paths if str(path) not in images and path.name not in skipped]
    lost += [line for line in lines if "Traceback" in line or "Error:" in line]
    lost += [f"exit code {done.returncode}"] if done.returncode not in (0, 3) else []
    return {"results": len(images), "skipped": len(skipped), "crashes": lost, "lines": lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the files are left")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "odd"
        folder.mkdir(parents=True)
        paths = write_all(folder)
        report = {"files": len(paths), **run_detect(options.model or untrained(Path(temporary)), folder, paths)}
        report["against Pillow"] = compare(paths)
    if options.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{report['files']} files: {report['results']} results, {report['skipped']} skipped with a line,"
          f" {len(report['crashes'])} crashes")  # fmt: skip
    for name in report["crashes"]:
        print(f"  crash: {name}")
    for key, names in report["against Pillow"].items():
        print(f"{key}: {len(names)}")
        for name in names if key in ("unlike", "Pillow alone", "here alone") else ():
            print(f"  {name}")


if __name__ == "__main__":
    main()
