"""Files of a folder: which are images, and what their pixels are as a viewer shows them."""

import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, features

from autogrow_jax.data import load_dataset, resize_center_crop
from autogrow_jax.data.load import read_source
from autogrow_jax.errors import UserError
from autogrow_jax.files import decode_crop

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)


@pytest.fixture
def root(tmp_path):
    """Two classes of two grey images each, as PNG."""
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(2):
            pixels = np.full((6, 5), 10 * k + i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"a{i}.png")
    return tmp_path / "pets"


def read(root, image_size=0, **settings):
    """The images of the class cat by file name, with the notes."""
    cache = str(root.parent / "cache")
    source = read_source(f"folder:{root}", "", image_size, cache, **settings)
    again = read_source(f"folder:{root}", "", image_size, cache, **settings)
    assert again.notes == source.notes
    rows = zip(source.files["train"], source.train.images, strict=True)
    return {path.name: image for path, image in rows if path.parent.name == "cat"}, source.notes


def encoded(image, kind, **how):
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["x.jfif", "x.jpe", "x", "x.PNG", "x.jpg", "x.dat", "x.png.bak"])
@pytest.mark.parametrize("kind", ["png", "webp", "bmp", "tiff"])
def test_a_file_is_an_image_by_its_content_whatever_its_name(root, name, kind):
    how = {"lossless": True} if kind == "webp" else {}
    (root / "cat" / name).write_bytes(encoded(Image.fromarray(PIXELS), kind, **how))
    images, notes = read(root)
    assert np.array_equal(images[name], PIXELS)
    assert not any("passed over" in note for note in notes)


@pytest.mark.skipif(not features.check("avif"), reason="Pillow reads no AVIF here")
def test_avif_is_read(root):
    (root / "cat" / "x.avif").write_bytes(encoded(Image.new("RGB", (5, 6), "red"), "avif"))
    images, _ = read(root)
    assert np.abs(images["x.avif"].astype(int) - (255, 0, 0)).max() < 10


def test_files_that_are_no_images_are_passed_over_and_counted(root):
    contents = {
        "labels.csv": b"name,class\na,1\n",
        "more.csv": b"P3 is no picture",
        "BMW": b"BMW and other cars",
        "clip.mp4": b"\0\0\0\x18ftypmp42" + bytes(100),
        "drawing.svg": b"<svg/>",
        "empty": b"",
        "paper.pdf": b"%PDF-1.4 " + bytes(100),
        "photo.psd": b"8BPS" + bytes(100),
        "page.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n",
    }
    for i, (name, data) in enumerate(contents.items()):
        (root / ("cat" if i % 2 else ".") / name).write_bytes(data)
    images, notes = read(root)
    assert set(images) == {"a0.png", "a1.png"}
    (note,) = notes
    for kind in ("2 .csv", "2 without suffix", "1 .mp4", "1 .svg", "1 .pdf", "1 .psd", "1 .eps"):
        assert kind in note


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", b"\xff\xd8\xff\xe0 cut"])
@pytest.mark.parametrize("suffix", ["jpg", "PNG", "heic"])
def test_a_file_that_is_called_an_image_and_is_none_is_named(root, data, suffix):
    (root / "cat" / f"x.{suffix}").write_bytes(data)
    with pytest.raises(UserError, match=rf"cat/x\.{suffix}: not readable as an image"):
        read(root)


def test_all_that_cannot_be_read_is_named_at_once(root):
    (root / "cat" / "x.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    whole = (root / "cat" / "a0.png").read_bytes()
    (root / "dog").mkdir(exist_ok=True)
    (root / "dog" / "fine.png").write_bytes(whole)
    (root / "dog" / "half.png").write_bytes(whole[: len(whole) // 2])  # Its header can be read.
    with pytest.raises(UserError) as told:
        read(root)
    first, *names = str(told.value).splitlines()
    assert first == "2 images cannot be read; mend, convert or remove them:"
    assert [words.partition(": not readable as an image (")[0] for words in names] == [
        f"  {root / 'cat/x.jpg'}",
        f"  {root / 'dog/half.png'}",
    ]
    for number in range(30):
        (root / "cat" / f"y{number}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"(?s)32 images .*\n  and 12 more$"):
        read(root)


def test_images_of_more_than_8_bits_are_named_at_once_with_those_that_are_damaged(root):
    for number in range(2):
        deep = Image.fromarray(np.full((6, 5), 1000 + number, np.uint16))
        deep.save(root / "cat" / f"deep {number}.png")
    (root / "dog" / "x.png").write_bytes(b"")
    with pytest.raises(UserError) as told:
        read(root)
    first, *names = str(told.value).splitlines()
    assert first == "3 images cannot be read; mend, convert or remove them:"
    deep, other, empty = names
    assert deep == f"  {root / 'cat/deep 0.png'}: more than 8 bits a channel (mode I;16)"
    assert other == deep.replace("0.png", "1.png")
    assert empty.startswith(f"  {root / 'dog/x.png'}: not readable as an image (")


def test_a_pipe_among_the_images_does_not_hang(root):
    os.mkfifo(root / "cat" / "pipe")
    assert "passed over as no images: 1 without suffix" in read(root)[1]
    os.mkfifo(root / "cat" / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png: not readable"):
        read(root)


@pytest.mark.parametrize("cut", range(0, 400, 23))
def test_whatever_is_cut_off_ends_in_one_error(root, cut):
    for kind in ("png", "jpeg", "tiff", "webp", "gif"):
        data = encoded(Image.fromarray(PIXELS), kind)
        path = root / "cat" / f"x.{kind}"
        path.write_bytes(data[: min(cut, len(data) - 30)])  # PNG has 20 bytes behind the pixels.
        with pytest.raises(UserError, match="not readable as an image"):
            read(root)
        path.unlink()


# --- As a viewer shows it.


def turned(orientation):
    """PIXELS as they are stored under a tag, by EXIF's own table: what the first row, the first
    column of the file are in the picture."""
    stored = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: p.transpose(1, 0, 2)[::-1],
        7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda p: p.transpose(1, 0, 2)[:, ::-1],
    }
    return np.ascontiguousarray(stored[orientation](PIXELS))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
def test_orientation_tags_are_applied(root, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"lossless": True} if kind == "webp" else {}
    image = Image.fromarray(turned(orientation))
    (root / "cat" / "x").write_bytes(encoded(image, kind, exif=exif, **how))
    assert np.array_equal(read(root)[0]["x"], PIXELS)  # And all have one size.


@pytest.mark.parametrize("alpha", [False, True])
def test_a_tag_behind_the_pixels_of_a_png_is_applied(root, alpha):
    """As its specification allows; in memory and in a stream, the header and the pixels alike."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(turned(6))
    data = encoded(image.convert("RGBA") if alpha else image, "png")
    chunk = exif.tobytes().removeprefix(b"Exif\0\0")
    late = len(chunk).to_bytes(4) + b"eXIf" + chunk
    late += zlib.crc32(b"eXIf" + chunk).to_bytes(4)
    end = data.index(b"IEND") - 4
    (root / "cat" / "x").write_bytes(data[:end] + late + data[end:])
    assert np.array_equal(read(root)[0]["x"], PIXELS)
    height, width = PIXELS.shape[:2]
    seen = []
    decode_crop(
        (root / "cat" / "x").read_bytes(),
        root,
        lambda *size: seen.append(size) or (0, 0, size[1], size[0]),
        4,
        (255, 255, 255),
    )
    assert seen == [(height, width)]


def test_a_tag_of_no_meaning_turns_nothing(root):
    """Such as a 1 in the other byte order."""
    exif = Image.Exif()
    exif[0x0112] = 256
    (root / "cat" / "x").write_bytes(encoded(Image.fromarray(PIXELS), "png", exif=exif))
    assert np.array_equal(read(root)[0]["x"], PIXELS)


def test_a_very_thin_image_takes_no_gigabytes(root):
    """Its middle is what is seen of it, however long it is."""
    pixels = np.zeros((1, 20_000, 3), np.uint8)
    pixels[:, 9_000:11_000] = 200
    tracemalloc.start()
    assert (resize_center_crop(pixels, 224) == 200).all()
    assert resize_center_crop(pixels.transpose(1, 0, 2), 8).shape == (8, 8, 3)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_a_damaged_tag_turns_nothing(root):
    data = encoded(Image.fromarray(PIXELS), "webp", lossless=True, exif=b"Exif\0\0MM\0*nonsense")
    (root / "cat" / "x").write_bytes(data)
    assert np.array_equal(read(root)[0]["x"], PIXELS)


ALPHA = np.asarray([[0, 255, 0, 128, 255]] * 6, np.uint8)


def on(ground):
    """Black at ALPHA over a ground."""
    return np.rint((255 - ALPHA[..., None]) / 255 * ground).astype(int)


@pytest.mark.parametrize(
    "background, ground",
    [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("#ff8000", (255, 128, 0))],
)
def test_transparency_is_laid_on_a_ground(root, background, ground):
    black = np.zeros((6, 5), np.uint8)
    rgba, la = np.dstack([black, black, black, ALPHA]), np.dstack([black, ALPHA])
    Image.fromarray(rgba).save(root / "cat" / "rgba.png")
    Image.fromarray(la).save(root / "cat" / "la.png")
    Image.fromarray(rgba).save(root / "cat" / "rgba.webp", lossless=True)
    palette = Image.fromarray((ALPHA > 0).astype(np.uint8), "P")
    palette.putpalette([9, 9, 9, 0, 0, 0])
    palette.save(root / "cat" / "palette.png", transparency=0)
    palette.save(root / "cat" / "palette.gif", transparency=0)
    Image.fromarray((ALPHA > 0).astype(np.uint8) * 50).save(root / "cat" / "l.png", transparency=0)
    images, notes = read(root, background=background)
    for name in ("rgba.png", "la.png", "rgba.webp"):
        assert np.abs(images[name] - on(ground)).max() <= 1
    for name, value in (("palette.png", 0), ("palette.gif", 0), ("l.png", 50)):
        expected = np.where((ALPHA > 0)[..., None], value, ground)
        assert np.array_equal(images[name], np.broadcast_to(expected, (6, 5, 3)))
    note = f"transparent in part, laid on {background}: 6 images such as {root}/cat/l.png"
    assert note in notes


def test_an_opaque_image_with_an_alpha_channel_is_not_pointed_out(root):
    Image.fromarray(np.dstack([PIXELS, np.full((6, 5), 255, np.uint8)])).save(root / "cat/x.png")
    images, notes = read(root)
    assert np.array_equal(images["x.png"], PIXELS)
    assert notes == (f"in grey, made RGB as the other 1: 4 images such as {root}/cat/a0.png",)


def test_grey_on_a_grey_ground_stays_grey_and_on_a_coloured_one_does_not(root):
    Image.fromarray(np.dstack([ALPHA, ALPHA])).save(root / "cat" / "x.png")
    assert read(root)[0]["x.png"].shape == (6, 5, 1)
    assert read(root, background="#ff0000")[0]["x.png"].shape == (6, 5, 3)


def test_a_colour_that_is_none_is_refused(root):
    with pytest.raises(UserError, match="background is 'whiite'"):
        read(root, background="whiite")


def png16(channels):
    """A PNG of 16 bits a channel, 5x6; Pillow writes none in colour."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    kinds = {1: 0, 2: 4, 3: 2, 4: 6}
    header = struct.pack(">IIBBBBB", 5, 6, 16, kinds[channels], 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(range(5 * channels * 2))) * 6)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def tiff16():
    """A TIFF of 16 bits a channel in RGB, 5x6."""
    entries = [(256, 4, 1, 5), (257, 4, 1, 6), (258, 3, 3, 134), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, 140), (277, 3, 1, 3), (278, 4, 1, 6), (279, 4, 1, 180)]
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        data += struct.pack("<HHII", tag, kind, count, value)
    data += bytes(4)
    data += bytes(134 - len(data)) + struct.pack("<HHH", 16, 16, 16)
    return data + bytes(range(180))


DEEP = {f"png of {c} channels": png16(c) for c in (1, 2, 3, 4)} | {
    "tiff": tiff16(),
    "ppm": b"P6 5 6 65535\n" + bytes(180),
    "pgm": b"P5 5 6 1000\n" + bytes(60),
    "plain ppm": b"P3 5 6 1023\n" + b"900 " * 90,
    "float tiff": encoded(Image.fromarray(np.zeros((6, 5), np.float32)), "tiff"),
}


@pytest.mark.parametrize("data", DEEP.values(), ids=DEEP)
def test_more_than_8_bits_a_channel_are_refused_in_colour_too(root, data):
    (root / "cat" / "x").write_bytes(data)
    with pytest.raises(UserError, match="cat/x: more than 8 bits"):
        read(root)


def test_other_modes_of_8_bits_are_converted(root):
    red = Image.new("RGB", (5, 6), (255, 0, 0))
    files = {
        "cmyk.jpg": encoded(red.convert("CMYK"), "jpeg", quality=100),
        "cmyk.tif": encoded(red.convert("CMYK"), "tiff"),
        "palette.png": encoded(red.convert("P"), "png"),
        "p6.ppm": b"P6 5 6 255\n" + b"\xff\0\0" * 30,
        "bits555.bmp": encoded(red, "bmp"),
    }
    for name, data in files.items():
        (root / "cat" / name).write_bytes(data)
    Image.new("1", (5, 6), 1).save(root / "cat" / "bits.png")
    images, _ = read(root)
    for name in files:
        assert np.abs(images[name].astype(int) - (255, 0, 0)).max() < 6, name
    assert images["bits.png"].min() == 255


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff"])
def test_an_animated_image_gives_its_first_frame_and_says_so(root, kind):
    first, *others = [Image.new("RGB", (5, 6), colour) for colour in ("red", "lime", "blue")]
    how = {"lossless": True} if kind == "webp" else {}
    data = encoded(first, kind, save_all=True, append_images=others, **how)
    (root / "cat" / "x").write_bytes(data)
    images, notes = read(root)
    assert (images["x"] == (255, 0, 0)).all()
    assert f"of several frames, of which the first was taken: 1 image such as {root}/cat/x" in notes


def test_a_photo_with_a_preview_is_not_animated(root):
    red, small = Image.new("RGB", (5, 6), "red"), Image.new("RGB", (5, 6), "blue")
    data = encoded(red, "mpo", save_all=True, append_images=[small])
    (root / "cat" / "x.jpg").write_bytes(data)
    images, notes = read(root)
    assert images["x.jpg"][0, 0, 0] > 200
    assert not any("frames" in note for note in notes)


def test_an_alpha_channel_that_holds_the_shape_can_be_learnt_from(tmp_path):
    """Black all over; only what is transparent tells the classes apart."""
    for k, name in enumerate(("left", "right")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(5):
            alpha = np.zeros((8, 8), np.uint8)
            alpha[i, 4 * k : 4 * k + 4] = 255
            pixels = np.dstack([np.zeros((8, 8, 3), np.uint8), alpha])
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{i}.png")
    dataset = load_dataset(f"folder:{tmp_path / 'set'}", cache_directory=str(tmp_path / "cache"))
    dark = (dataset.train.images[:, :, :4] == 0).any((1, 2, 3))
    assert np.array_equal(dark, dataset.train.labels == 0)
