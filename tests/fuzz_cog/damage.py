"""Damage the bytes of a raster: anywhere, or aimed at the structure of a TIFF."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

_NUMBERS = (0, 1, 2, 3, 7, 8, 16, 255, 256, 4096, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
# TIFF 6.0 §2 and BigTIFF: size of a value of each type, in bytes.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8}
_MOST_IFDS = 20


def damaged(content: bytes, random: Random) -> bytes:
    """Return `content` after one to three kinds of damage."""
    data = bytearray(content)
    for _ in range(random.randint(1, 3)):
        kinds: list[Callable[[bytearray, Random], None]] = [_bytes, _run, _cut, _moved]
        if data[:2] in (b"II", b"MM"):
            kinds += [_entry] * 6 + [_values] * 4 + [_link, _front]
        random.choice(kinds)(data, random)
        if not data:
            break
    return bytes(data)


def _bytes(data: bytearray, random: Random) -> None:
    for _ in range(random.randint(1, 16)):
        data[random.randrange(len(data))] = random.randrange(256)


def _front(data: bytearray, random: Random) -> None:
    for _ in range(random.randint(1, 4)):
        data[random.randrange(min(len(data), 600))] = random.choice((0, 1, 255, random.randrange(256)))


def _run(data: bytearray, random: Random) -> None:
    start = random.randrange(len(data))
    length = min(random.choice((4, 64, 1000, 20_000)), len(data) - start)
    data[start : start + length] = random.choice((bytes(length), b"\xff" * length, random.randbytes(length)))


def _cut(data: bytearray, random: Random) -> None:
    if random.random() < 0.5:
        del data[random.randrange(len(data)) :]
    else:
        data += random.randbytes(random.randint(1, 5000))


def _moved(data: bytearray, random: Random) -> None:
    length = random.randint(1, 3000)
    start, other = random.randrange(len(data)), random.randrange(len(data))
    piece = data[start : start + length]
    data[other : other + len(piece)] = piece


def _entry(data: bytearray, random: Random) -> None:
    """Change a tag's code, type, count or value."""
    tiff = _Tiff(data)
    place = tiff.entry(random)
    if place is None:
        return
    field = random.choice(("code", "kind", "count", "value", "value", "swap"))
    if field == "code":
        tiff.put("H", place, random.choice((254, 256, 258, 259, 262, 277, 284, 317, 322, 324, 339, 65000)))
    elif field == "kind":
        tiff.put("H", place + 2, random.choice((*_SIZES, 0, 99)))
    elif field == "count":
        tiff.put(tiff.word, place + 4, random.choice(_NUMBERS))
    elif field == "value":
        tiff.put(random.choice(("H", "I")), place + 4 + tiff.wide, random.choice(_NUMBERS))
    else:
        other = tiff.entry(random)
        if other is not None:
            size = 4 + 2 * tiff.wide
            data[place : place + size], data[other : other + size] = (
                data[other : other + size],
                data[place : place + size],
            )


def _values(data: bytearray, random: Random) -> None:
    """Change one of the values that a tag points to, such as a block's offset."""
    tiff = _Tiff(data)
    place = tiff.entry(random)
    if place is None:
        return
    kind, count = tiff.get("H", place + 2), tiff.get(tiff.word, place + 4)
    size = _SIZES.get(kind, 1)
    if size * count <= tiff.wide or size * count > len(data):
        return
    target = tiff.get(tiff.word, place + 4 + tiff.wide) + size * random.randrange(count)
    if kind in (1, 2, 6, 7):
        tiff.put("B", target, random.randrange(256))
    else:
        value = random.choice((*_NUMBERS, random.randrange(len(data) + 100)))
        tiff.put("H" if size == 2 else "I", target, value)


def _link(data: bytearray, random: Random) -> None:
    """Change the offset of the next IFD."""
    tiff = _Tiff(data)
    links = tiff.links()
    if links:
        target = random.choice((0, random.randrange(len(data)), *tiff.directories()))
        tiff.put(tiff.word, random.choice(links), target)


class _Tiff:
    """What is still readable of a TIFF's structure."""

    def __init__(self, data: bytearray) -> None:
        self._data = data
        self._order = "<" if data[:2] == b"II" else ">"
        self._big = self.get("H", 2) == 43
        self.wide = 8 if self._big else 4
        self.word = "Q" if self._big else "I"

    def get(self, kind: str, place: int) -> int:
        size = struct.calcsize(kind)
        piece = bytes(self._data[place : place + size]).ljust(size, b"\0")
        (value,) = struct.unpack(self._order + kind, piece)
        return int(value)

    def put(self, kind: str, place: int, value: int) -> None:
        size = struct.calcsize(kind)
        if 0 <= place <= len(self._data) - size:
            value %= 1 << (8 * size)
            self._data[place : place + size] = struct.pack(self._order + kind, value)

    def directories(self) -> list[int]:
        found: list[int] = []
        position = self.get(self.word, 8 if self._big else 4)
        while 0 < position < len(self._data) and position not in found and len(found) < _MOST_IFDS:
            found.append(position)
            position = self.get(self.word, self._link(position))
        return found

    def links(self) -> list[int]:
        return [8 if self._big else 4] + [self._link(position) for position in self.directories()]

    def entry(self, random: Random) -> int | None:
        """Return the position of a random entry, or None if there is none."""
        directories = self.directories()
        if not directories:
            return None
        position = random.choice(directories)
        entries = min(self._entries(position), 200)
        return position + self._head + random.randrange(entries) * (4 + 2 * self.wide) if entries else None

    @property
    def _head(self) -> int:
        return 8 if self._big else 2

    def _entries(self, position: int) -> int:
        return self.get("Q" if self._big else "H", position)

    def _link(self, position: int) -> int:
        return position + self._head + self._entries(position) * (4 + 2 * self.wide)
