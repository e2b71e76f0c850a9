"""Decoding: every type, mode and orientation to upright RGB, and what is refused."""

from __future__ import annotations

import io
import os
import re
import struct

import numpy as np
import pytest
from PIL import Image

from mecoq_faiss.data.images import upright_rgb
from mecoq_faiss.data.sources import UnreadableImage, decode_image
from tests.data.files import encoded, noise, write_image


def decoded(data: bytes, **options) -> np.ndarray:
    image = decode_image(data, **options)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_types_give_the_pixels_back(kind):
    pixels = noise()
    data = encoded(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decoded(data), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_types_come_close(kind):
    data = encoded(Image.new("RGB", (16, 16), (200, 40, 90)), kind, quality=95)
    assert abs(decoded(data) - (200, 40, 90)).max() <= 6


def test_every_way_to_hand_over_a_file_is_equal(tmp_path):
    path = tmp_path / "a.png"
    write_image(path)
    expected = decoded(path.read_bytes())
    with open(path, "rb") as file:
        for given in (path, str(path), file, io.BytesIO(path.read_bytes())):
            np.testing.assert_array_equal(np.asarray(decode_image(given)), expected)


def test_gray_and_one_bit_become_equal_channels():
    gray = noise(channels=1)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(gray), "PNG")), np.stack([gray] * 3, 2))
    bits = gray > 127
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(bits), "PNG")), np.stack([bits * 255] * 3, 2))


def test_palette():
    image = Image.fromarray((noise(channels=1) % 3).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 250, 7])
    colors = np.array([[10, 20, 30], [200, 0, 0], [0, 250, 7]])
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        np.testing.assert_array_equal(decoded(encoded(image, kind)), colors[np.asarray(image)])
    clear = np.array([[10, 20, 30], [255, 255, 255], [0, 250, 7]])
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(decoded(encoded(image, kind, transparency=1)), clear[np.asarray(image)])
    # Half of 10, 20, 30 on white
    half = decoded(encoded(image, "PNG", transparency=bytes([128, 255, 255])))
    assert abs(half[np.asarray(image) == 0] - (132, 137, 142)).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_lies_on_white(kind):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    rgba = noise(channels=4)
    rgba[0] = (9, 9, 9, 0)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert abs(decoded(encoded(Image.fromarray(rgba), kind, **options)) - expected).max() <= 1


def test_gray_with_alpha_and_transparent_color():
    two = noise(channels=2)
    alpha = two[..., 1] / 255
    expected = two[..., 0] * alpha + 255 * (1 - alpha)
    assert abs(decoded(encoded(Image.fromarray(two, "LA"), "PNG"))[..., 1] - expected).max() <= 1
    rgb = noise()
    rgb[3] = (1, 2, 3)
    seen = decoded(encoded(Image.fromarray(rgb), "PNG", transparency=(1, 2, 3)))
    assert (seen[3] == 255).all()
    np.testing.assert_array_equal(seen[4:], rgb[4:])


def test_cmyk():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red ink
    for kind in ("JPEG", "TIFF"):
        assert abs(decoded(encoded(image, kind)) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_not_clipped(kind):
    gray = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    expected = np.stack([np.arange(256).reshape(16, 16)] * 3, 2)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(gray), kind)), expected)
    near = decoded(encoded(Image.fromarray(np.array([[0, 128, 129, 65406, 65535]], np.uint16)), kind))
    assert near[0, :, 0].tolist() == [0, 0, 1, 254, 255]


def test_big_endian_and_32_bit_gray():
    gray = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    big = b"MM\0*" + struct.pack(">I", 8 + 512) + gray.astype(">u2").tobytes()
    tags = [(256, 16), (257, 16), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 16), (279, 512)]
    big += struct.pack(">H", len(tags)) + b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    np.testing.assert_array_equal(decoded(big + bytes(4))[..., 0], gray // 257)
    wide = encoded(Image.fromarray(gray.astype(np.int32)), "TIFF")
    np.testing.assert_array_equal(decoded(wide)[..., 0], gray // 257)


def test_the_first_frame_counts():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert abs(decoded(data) - (255, 0, 0)).max() <= 3


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_exif_orientation(kind, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16], pixels[8:, :16], pixels[:8, 16:] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), kind, exif=exif, **({} if kind in ("PNG", "TIFF") else {"quality": 100}))
    seen, expected = decoded(data), UPRIGHT[orientation](pixels).astype(int)
    assert seen.shape == expected.shape
    assert abs(seen - expected)[3::8, 3::8].max() <= 8


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_lose_the_image():
    data = encoded(Image.new("RGB", (8, 8), "red"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    assert abs(decoded(data) - (255, 0, 0)).max() <= 3


def test_a_damaged_tag_beside_the_orientation_does_not_lose_the_image():
    exif = Image.Exif()
    exif[0x0112], exif[0x8825] = 6, {2: (1.0, 2.0, 3.0)}  # the latitude, fractions
    damaged = exif.tobytes().replace(b"\0\2\0\5\0\0\0\3", b"\0\2\0\1\0\0\0\3")  # which now says bytes
    assert damaged != exif.tobytes()
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8] = 250
    data = encoded(Image.fromarray(pixels), "JPEG", exif=damaged, quality=100)
    assert abs(decoded(data) - np.rot90(pixels, -1).astype(int)).max() <= 8


def test_draft_never_goes_below():
    data = encoded(Image.fromarray(noise(1200, 1600)), "JPEG")
    assert decoded(data, draft=224).shape == (300, 400, 3)
    assert decoded(data, draft=301).shape == (600, 800, 3)
    assert decoded(data, draft=5000).shape == (1200, 1600, 3)
    assert decoded(encoded(Image.fromarray(noise(120, 160)), "PNG"), draft=20).shape == (120, 160, 3)
    gray = decoded(encoded(Image.fromarray(noise(800, 800, 1)), "JPEG"), draft=100)
    assert gray.shape == (100, 100, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_truncated_is_refused(kind, tmp_path):
    data = encoded(Image.fromarray(noise(64, 64)), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableImage, match=re.escape(str(path))):
        decode_image(path)


def test_other_unreadable_files(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(UnreadableImage, match=r"a\.jpg: not an image of a known type \(\.bmp"):
        decode_image(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImage, match=r"b\.jpg: No such file"):
        decode_image(tmp_path / "b.jpg")
    with pytest.raises(UnreadableImage, match="from the web: not an image"):
        decode_image(b"", name="from the web")
    with pytest.raises(UnreadableImage, match="not an image"):  # EPS would start Ghostscript
        decode_image(encoded(Image.new("RGB", (4, 4)), "EPS"))
    with pytest.raises(UnreadableImage, match="float pixels"):
        decode_image(encoded(Image.new("F", (4, 4)), "TIFF"))
    data = encoded(Image.new("RGB", (64, 64)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match="decompression bomb"):
        decode_image(data)


def test_an_image_in_memory_becomes_upright_without_its_metadata():
    image = Image.fromarray(noise(4, 6))
    image.getexif()[0x0112] = 6
    image.info["comment"] = b"taken by"
    rgb = upright_rgb(image)
    np.testing.assert_array_equal(np.asarray(rgb), np.rot90(noise(4, 6), -1))
    assert rgb.mode == "RGB" and "comment" not in rgb.info and rgb.getexif().get(0x0112) in (None, 1)
    np.testing.assert_array_equal(np.asarray(image), noise(4, 6))  # the given one stays as it is


def test_an_error_names_what_was_given(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    for given, name in ((tmp_path / "a.png", "a.png"), (io.BytesIO(b"x"), "image"), (b"x", "image")):
        with pytest.raises(UnreadableImage, match=f"{name}: not an image of a known type"):
            decode_image(given)
    with open(tmp_path / "a.png", "rb") as file, pytest.raises(UnreadableImage, match=r"a\.png: not an image"):
        decode_image(file)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_limits_are_checked_before_decoding(tmp_path, monkeypatch):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (13_000, 13_000)).save(bomb)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UnreadableImage, match=r"bomb\.png: 13000 x 13000 pixels, more than 100,000,000"):
        decode_image(bomb)
    monkeypatch.setenv("MECOQ_FAISS_MAX_PIXELS", "200000000")
    with pytest.raises(pytest.fail.Exception, match="decoded"):
        decode_image(bomb)


def test_the_limits_of_the_environment(tmp_path, monkeypatch):
    data = encoded(Image.new("RGB", (10, 10)), "PNG")
    monkeypatch.setenv("MECOQ_FAISS_MAX_PIXELS", "100")
    assert decode_image(data).size == (10, 10)
    monkeypatch.setenv("MECOQ_FAISS_MAX_PIXELS", "99")
    with pytest.raises(UnreadableImage, match=r"10 x 10 pixels, more than 99 \(MECOQ_FAISS_MAX_PIXELS\)"):
        decode_image(data)
    for value in ("many", "-1", "1e9", "9" * 19):
        monkeypatch.setenv("MECOQ_FAISS_MAX_BYTES", value)
        with pytest.raises(ValueError, match=r"MECOQ_FAISS_MAX_BYTES=.* is not a whole number") as error:
            decode_image(data)
        assert not isinstance(error.value, UnreadableImage)
    monkeypatch.setenv("MECOQ_FAISS_MAX_BYTES", str(len(data) - 1))
    monkeypatch.delenv("MECOQ_FAISS_MAX_PIXELS")
    (tmp_path / "a.png").write_bytes(data)
    for given in (data, tmp_path / "a.png"):
        with pytest.raises(UnreadableImage, match=f"{len(data)} bytes, more than {len(data) - 1}"):
            decode_image(given)


def test_a_sparse_file_of_100_gb_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(Image.new("RGB", (10, 10)), "JPEG"))
    os.truncate(tmp_path / "a.jpg", 10**11)
    with pytest.raises(UnreadableImage, match=r"a\.jpg: 100,000,000,000 bytes, more than 1,000,000,000"):
        decode_image(tmp_path / "a.jpg")


def test_no_regular_file_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("/dev/zero")
    (tmp_path / "c.jpg").symlink_to("a.jpg")
    (tmp_path / "d.jpg").mkdir()
    for name in "abc":
        with pytest.raises(UnreadableImage, match=rf"{name}\.jpg: Not a regular file"):
            decode_image(tmp_path / f"{name}.jpg")
    with pytest.raises(UnreadableImage, match=r"d\.jpg: Is a directory"):
        decode_image(tmp_path / "d.jpg")


def test_a_strange_name_stays_in_one_line(tmp_path):
    for name, shown in (("a\nb.jpg", "a\\nb.jpg"), ("\udcff.jpg", "\\udcff.jpg"), ("\x1b[31m.jpg", "\\x1b[31m.jpg")):
        (tmp_path / name).write_bytes(b"no image")
        with pytest.raises(UnreadableImage) as error:
            decode_image(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path}/{shown}: not an image") and str(error.value).isprintable()
