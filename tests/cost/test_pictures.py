"""Tokens of pictures: the providers' own examples, sizes read off first bytes, and any size."""

from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.cost.pictures import picture_bound, size_of
from towerkit.cost.tokens import ATTACHED, Asked, TokenBook

MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-5", "o3", "gpt-4.1-mini", "o4-mini", "claude-sonnet-4-5",
          "gemini-2.5-flash", "gemini-3-pro", "models/gemini-2.0-flash")  # fmt: skip


def png(width, height):
    """Return the beginning of a PNG."""
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", width, height) + b"\x08\x06"


def jpeg(width, height):
    """Return the beginning of a JPEG that a camera has written into, padded."""
    camera = b"\xff\xe1" + struct.pack(">H", 2 + 60_000) + bytes(60_000)
    tables = b"\xff\xff\xc4" + struct.pack(">H", 5) + b"abc"
    return (
        b"\xff\xd8" + camera + tables + b"\xff\xc2\x00\x11\x08" + struct.pack(">HH", height, width)
    )


def webp(kind, body):
    """Return the beginning of a WebP."""
    return b"RIFF\x00\x00\x00\x00WEBP" + kind + b"\x00\x00\x00\x00" + body


SIZED = {
    "png": png(1024, 768), "gif": b"GIF89a" + struct.pack("<HH", 1024, 768),
    "jpeg": jpeg(1024, 768),
    "webp": webp(b"VP8 ", bytes(6) + struct.pack("<HH", 1024, 768)),
    "webp lossless": webp(b"VP8L", b"\x2f" + struct.pack("<I", 1023 | 767 << 14)),
    "webp extended": webp(b"VP8X", bytes(4) + (1023).to_bytes(3, "little")
                          + (767).to_bytes(3, "little")),
}  # fmt: skip


def encoded(data):
    """Return base64."""
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("data", SIZED.values(), ids=SIZED)
def test_the_size_is_read_off_the_first_bytes(data):
    """Of a data URL, and of base64 alone."""
    assert size_of(encoded(data)) == (1024, 768)
    assert size_of("data:image/png;base64," + encoded(data)) == (1024, 768)


@pytest.mark.parametrize("data", ["", "https://example.com/a.png", "data:,", encoded(b"BM" * 40),
                                  encoded(png(0, 9)), encoded(SIZED["jpeg"][:50_000]),
                                  encoded(webp(b"VP9 ", bytes(30))), "%" * 40])  # fmt: skip
def test_what_is_no_picture_or_broken_has_no_size(data):
    """No exception, whatever it is."""
    assert size_of(data) is None


@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF0000WEBPVP8L", b"GIF89a"]),
       st.binary(max_size=60))  # fmt: skip
def test_no_bytes_raise(start, rest):
    """Whatever follows a proper beginning."""
    found = size_of(encoded(start + rest))
    assert found is None or min(found) > 0


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        # OpenAI's: scaled to 768 squared it is four tiles; 2048 × 4096 is six; low is the base.
        ("gpt-4o", (1024, 1024), "high", 765), ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85), ("gpt-4o", (100, 100), None, 255),
        ("gpt-4o-mini", (1024, 1024), None, 2833 + 4 * 5667), ("gpt-4o", None, None, 1445),
        ("o1", (512, 512), None, 225), ("gpt-5", (512, 513), None, 350),
        ("gpt-4.1-mini", (1024, 1024), None, 1659), ("gpt-4.1-nano", (3000, 3000), None, 3779),
        # Anthropic's: 200 × 200 and 1000 × 1000.
        ("claude-sonnet-4-5", (200, 200), None, 54), ("claude-x", (1000, 1000), None, 1334),
        ("anthropic/claude-x", None, None, 4784), ("claude-x", (9000, 9000), None, 4784),
        # Google's: small ones are one tile, 960 × 540 is six.
        ("gemini-2.5-flash", (384, 384), None, 258), ("gemini-2.5-flash", (960, 540), None, 1548),
        ("gemini-2.0-flash", None, None, 6192), ("gemini-3-pro", (10, 10), None, 2240),
        ("unheard-of", (10, 10), None, None),
    ],
)  # fmt: skip
def test_pictures_are_what_their_providers_say(model, size, detail, tokens):
    """The examples of the providers' guides, and the corners of the rules."""
    assert picture_bound(model, size, detail) == tokens


@given(st.sampled_from(MODELS), st.integers(1, 8000), st.integers(1, 8000))
def test_no_size_is_above_what_any_size_may_be(model, width, height):
    """A picture whose size is unknown is bounded by the largest."""
    assert 0 < picture_bound(model, (width, height)) <= picture_bound(model)


def test_requests_count_their_pictures_by_these_rules():
    """OpenAI's and Anthropic's parts, one at an address, one without a rule, and a file."""
    url = "data:image/png;base64," + encoded(png(1024, 1024) + bytes(9_000))
    small = {"type": "text", "text": "what?"}

    def most(model, *parts):
        plain = TokenBook().bound(model, Asked([{"role": "user", "content": [small]}]))
        return (
            TokenBook().bound(model, Asked([{"role": "user", "content": [small, *parts]}])) - plain
        )

    chat = {"type": "image_url", "image_url": {"url": url, "detail": "high"}}
    assert 765 < most("gpt-4o", chat) < 765 + 150
    low = {"type": "input_image", "image_url": url, "detail": "low"}
    assert 85 < most("gpt-4o", low) < 85 + 150
    block = {"type": "image", "source": {"type": "base64", "data": url.partition(",")[2]}}
    assert 1399 < most("claude-sonnet-4-5", block) < 1399 + 150
    away = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    assert 1445 < most("gpt-4o", away) < 1445 + 150
    assert ATTACHED < most("unheard-of", chat) < ATTACHED + 150
    assert ATTACHED < most("gpt-4o", {"type": "file", "file": {"file_id": "f"}}) < ATTACHED + 150
