"""How much of an ELF file is program: what `size` calls text."""

from __future__ import annotations

import struct

__all__ = ["text_bytes"]

_WRITE, _ALLOC = 1, 2  # sh_flags
_NO_BITS = 8  # sh_type of what takes no room in the file


def text_bytes(content: bytes) -> int | None:
    """Return the bytes of code and constants of a program, library or object file.

    These are the sections that are loaded and never written: what a device keeps in flash, or maps
    from its disk once for all processes. None where it is no ELF file with sections.
    """
    if len(content) < 52 or content[:4] != b"\x7fELF":
        return None
    order = "<" if content[5] == 1 else ">"
    if content[4] == 2:  # 64 bits
        header, section = order + "Q10xHHH", order + "4xIQQQQ"
        at = 40
    else:
        header, section = order + "I10xHHH", order + "4xIIIII"
        at = 32
    try:
        first, size, count, _ = struct.unpack_from(header, content, at)
        rows = [struct.unpack_from(section, content, first + i * size) for i in range(count)]
    except struct.error:
        return None
    return sum(n for kind, flags, _, _, n in rows if _is_text(kind, flags)) if rows else None


def _is_text(kind: int, flags: int) -> bool:
    return bool(flags & _ALLOC) and not flags & _WRITE and kind != _NO_BITS
