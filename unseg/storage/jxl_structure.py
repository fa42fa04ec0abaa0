"""What a JPEG XL file's header says, before its decoder is asked, which decodes as it opens (ISO/IEC 18181-1, annex D;
18181-2, 9)."""

from __future__ import annotations

from dataclasses import dataclass

MARK = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
WHOLE, PART = b"jxlc", b"jxlp"  # boxes that hold the image
MOST_BOXES = 1000
RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height, by their number
SIDES = (9, 13, 18, 30)  # bits of a side
DEPTHS, FLOAT_DEPTHS = (8, 10, 12), (32, 16, 24)


@dataclass(frozen=True)
class JxlHeader:
    """animated: whether there are several frames, or may be. depth: bits a channel."""

    width: int
    height: int
    animated: bool
    depth: int


def jxl_header(start: bytes) -> JxlHeader | None:
    """Returns what the first bytes of a file say; None where they are none of JPEG XL, or too few."""
    codestream = _codestream(start)
    if codestream is None or codestream[:2] != MARK:
        return None
    bits = _Bits(codestream[2:64])
    try:
        width, height = _size(bits)
        if bits.take(1):  # all that follows is as usual
            return JxlHeader(width, height, animated=False, depth=8)
        if bits.take(1):
            bits.take(3)  # orientation, which the decoder applies
            if bits.take(1):
                _size(bits)  # that of showing it
            if bits.take(1) or bits.take(1):  # a preview, whose header nobody writes; or an animation
                return JxlHeader(width, height, animated=True, depth=8)
        depths = FLOAT_DEPTHS if bits.take(1) else DEPTHS
        selected = bits.take(2)
        return JxlHeader(width, height, False, depths[selected] if selected < 3 else 1 + bits.take(6))
    except IndexError:
        return None


def _codestream(start: bytes) -> bytes | None:
    """Returns the image's bytes, out of their box where they lie in one."""
    if not start.startswith(CONTAINER):
        return start
    place = len(CONTAINER)
    for _ in range(MOST_BOXES):
        head = start[place : place + 16]
        if len(head) < 16:
            return None
        size, kind, begin = int.from_bytes(head[:4], "big"), head[4:8], place + 8
        if size == 1:
            size, begin = int.from_bytes(head[8:16], "big"), place + 16
        if kind in (WHOLE, PART):
            return start[begin + 4 * (kind == PART) :]
        if size < 8:
            return None
        place += size
    return None


def _size(bits: _Bits) -> tuple[int, int]:
    in_eights = bits.take(1)
    height = _side(bits, in_eights)
    ratio = bits.take(3)
    if ratio == 0:
        return _side(bits, in_eights), height
    across, down = RATIOS[ratio]
    return height * across // down, height


def _side(bits: _Bits, in_eights: int) -> int:
    return 8 * (1 + bits.take(5)) if in_eights else 1 + bits.take(SIDES[bits.take(2)])


class _Bits:
    """Bits of bytes, the lowest of each first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def take(self, count: int) -> int:
        """Returns the next bits as a number; IndexError where there are too few."""
        value = 0
        for shift in range(count):
            value |= (self._data[self._place >> 3] >> (self._place & 7) & 1) << shift
            self._place += 1
        return value
