"""How many tokens a picture in a request is: by the rules that providers document.

Rule: a bound for whatever size a picture may have, a closer one where its size can be read off its
first bytes; nothing is decoded. A model that is in none of the tables has no rule here.

    who         rule                                                      of any size
    OpenAI      a base, and a sum for each tile of 512 after scaling      8 tiles
    the same    patches of 32, 1,536 at most, times a factor              1,536 patches
    Anthropic   width × height / 750, after scaling                       4,784
    Gemini      258 for each tile; from the third on by resolution        24 tiles; 2,240

After the guides to vision of OpenAI, Anthropic and Google, as of 2026.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct

# Base and sum of a tile, or factor of a patch, by the start of a model's name; the first that fits.
_PATCHES = (
    ("gpt-4.1-mini", 1.62), ("gpt-4.1-nano", 2.46), ("gpt-5-mini", 1.62), ("gpt-5-nano", 2.46),
    ("o4-mini", 1.72),
)  # fmt: skip
_TILES = (
    ("gpt-4o-mini", 2833, 5667), ("gpt-4o", 85, 170), ("chatgpt-4o", 85, 170), ("gpt-4.1", 85, 170),
    ("gpt-4.5", 85, 170), ("gpt-5", 70, 140), ("o1", 75, 150), ("o3", 75, 150),
    ("computer-use", 65, 129),
)  # fmt: skip
MOST_PATCHES, MOST_TILES = 1536, 8
CLAUDE_MOST = 4784  # of the models that take pictures of 2,576 pixels; older ones scale to 1,600
GEMINI_TILE, GEMINI_MOST_TILES, GEMINI_3_MOST = 258, 24, 2240

Size = tuple[int, int]


def picture_bound(model: str, size: Size | None = None, detail: str | None = None) -> int | None:
    """Return the most tokens a picture is for `model`; None where no rule is known.

    `size` is width and height in pixels, None unknown. `detail` is OpenAI's `low`, `high`, `auto`.
    """
    for start, factor in _PATCHES:
        if model.startswith(start):
            patches = MOST_PATCHES
            if size is not None:
                patches = min(patches, math.ceil(size[0] / 32) * math.ceil(size[1] / 32))
            return math.ceil(patches * factor)
    for start, base, tile in _TILES:
        if model.startswith(start):
            return base + (0 if detail == "low" else tile * _openai_tiles(size))
    name = model.rpartition("/")[2]
    if "claude" in name:
        return CLAUDE_MOST if size is None else min(CLAUDE_MOST, _claude(size))
    if name.startswith("gemini"):
        return _gemini(name, size)
    return None


def _openai_tiles(size: Size | None) -> int:
    if size is None:
        return MOST_TILES
    scale = min(1.0, 2048 / max(size))
    scale *= min(1.0, 768 / (min(size) * scale))
    return min(MOST_TILES, math.prod(math.ceil(side * scale / 512) for side in size))


def _claude(size: Size) -> int:
    return math.ceil(size[0] * size[1] / 750)


def _gemini(name: str, size: Size | None) -> int:
    if not name.startswith(("gemini-1", "gemini-2")):
        return GEMINI_3_MOST
    if size is None:
        return GEMINI_TILE * GEMINI_MOST_TILES
    if max(size) <= 384:
        return GEMINI_TILE
    unit = min(768, max(256, math.floor(min(size) / 1.5)))
    tiles = math.ceil(size[0] / unit) * math.ceil(size[1] / unit)
    return GEMINI_TILE * min(tiles, GEMINI_MOST_TILES)


def size_of(data: str) -> Size | None:
    """Return the size of an inlined picture (a data URL, or base64): PNG, GIF, JPEG or WebP.

    None for an address, for another format, and for what is broken.
    """
    if data.startswith("data:"):
        data = data.partition(",")[2]
    try:
        # JPEG says its size after what cameras add: 64 KB of it at most.
        start = base64.b64decode(data[:88_000], validate=True)
        found = _read(start)
    except (binascii.Error, ValueError, struct.error, IndexError):
        return None
    return found if found is not None and min(found) > 0 else None


def _read(start: bytes) -> Size | None:
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return struct.unpack_from(">II", start, 16)
    if start[:6] in {b"GIF87a", b"GIF89a"}:
        return struct.unpack_from("<HH", start, 6)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _webp(start)
    return _jpeg(start) if start[:2] == b"\xff\xd8" else None


def _webp(start: bytes) -> Size | None:
    kind = start[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", start, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", start, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _jpeg(start: bytes) -> Size | None:
    at = 2
    while start[at] == 0xFF:
        marker = start[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack_from(">HH", start, at + 5)
            return width, height
        else:
            at += 2 + struct.unpack_from(">H", start, at + 2)[0]
    return None
