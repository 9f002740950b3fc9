"""C source for firmware: the runtime in one file, the model as an array. No C library is needed.

    bst.c     every source file of runtime/src, in one translation unit; needs only bst.h
    bst.h     the public header, as it is
    model.h   the .bstm as a 64-byte aligned constant array, sizes of the two buffers, class names
    main.c    an example that runs the golden vectors

The amalgamation follows the `#include "..."` lines: a header with an include guard enters where it
is first needed, everything else where it is named. What is written in the vectors of an instruction
set enters once for each, its names ending in the instruction set's. `<string.h>` comes through
firmware/memory.h only, which has four functions of its own in its place where BST_FREESTANDING is
defined (or the compiler says `-ffreestanding`); then there are no error sentences, no thread-local
variables and only the portable kernels. Pools of threads and modules of TVM are left out in any
case. The same sources give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bestdeploy.errors import MissingToolError

__all__ = ["ModelFacts", "amalgamation", "model_header", "source_bundle"]

_INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^">]+)[">]')
_CONDITION = re.compile(r"^\s*#\s*(if|endif)")
_VECTORS = re.compile(r"\b(bst_(vec|bits)(_\w+)?|BST_SUM_VEC)\b", re.IGNORECASE)
_NAME = re.compile(r"\bbst_\w+", re.IGNORECASE)
_GUARD = re.compile(r"^#ifndef (BST_\w+_H_)$", re.MULTILINE)
_MEMORY = "memory.h"
_LICENCE = "// SPDX-License-Identifier: MIT"
_WORDS_PER_LINE = 5

_HEAD = """\
// SPDX-License-Identifier: MIT
// bst.c: libbst {version} in one file, made from runtime/ by `bestdeploy compile --target c`.
// C11; needs bst.h beside it, and nothing else where BST_FREESTANDING is defined.

#if !defined(BST_FREESTANDING) && defined(__STDC_HOSTED__) && __STDC_HOSTED__ == 0
#define BST_FREESTANDING
#endif
#ifndef BST_NO_THREADS
#define BST_NO_THREADS
#endif
#if defined(BST_FREESTANDING) && !defined(BST_NO_ERROR_TEXT)
#define BST_NO_ERROR_TEXT
#endif
#if defined(BST_FREESTANDING) && !defined(BST_SCALAR_ONLY)
#define BST_SCALAR_ONLY
#endif
#ifdef __clang__  // what was a header is no header here: not every file needs all of it
#pragma clang diagnostic ignored "-Wunused-function"
#endif

"""


@dataclass(frozen=True)
class ModelFacts:
    """What model.h tells beside the file itself; sizes in bytes.

    Attributes:
        model_bytes: buffer of the prepared model, as a 64-bit machine needs it (32-bit: less).
        arena_bytes: buffer of one session, likewise.
        frame_shape: (H, W, C), or (T, H, W, C) of event frames.
        class_names: K names.
    """

    model_bytes: int
    arena_bytes: int
    frame_shape: tuple[int, ...]
    n_golden: int
    class_names: tuple[str, ...]


def source_bundle(root: Path, content: bytes, facts: ModelFacts, name: str) -> dict[str, str]:
    """Return the four files by name.

    Args:
        root: the folder of the C runtime.
        content: the `.bstm`.
        facts: what the runtime says about it.
        name: what the model is called in comments.
    """
    return {
        "bst.c": amalgamation(root),
        "bst.h": _read(root / "include" / "bst.h"),
        "model.h": model_header(content, facts, name),
        "main.c": _read(root / "firmware" / "main.c"),
    }


# ---- the runtime in one file --------------------------------------------------------------------


def amalgamation(root: Path) -> str:
    """Return bst.c for the runtime below `root`.

    Raises:
        MissingToolError: a source file is missing.
    """
    header = _read(root / "include" / "bst.h")
    version = re.search(r'BST_VERSION "([^"]*)"', header)
    writer = _Amalgamation(root)
    text = _HEAD.format(version=version[1] if version else "unknown")
    prelude = root / "firmware" / _MEMORY
    body = [line for path in (prelude, *_order(root)) for line in writer.file(path)]
    return text + "\n".join(body) + "\n"


def _order(root: Path) -> list[Path]:
    """Kernels first, then the files that call them; sorted within each."""
    paths = (p for p in (root / "src").rglob("*.c") if not p.name.startswith("module"))
    found = sorted(paths, key=lambda p: p.relative_to(root).as_posix())
    return sorted(found, key=lambda p: "kernels" not in p.relative_to(root).parts)


class _Amalgamation:
    """Inlines files; remembers which guarded headers are in for good."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._public = self._root / "include" / "bst.h"
        self._vectors = _VectorFiles(self._root)
        self._seen: set[tuple[Path, str]] = set()
        self._depth = 0

    def file(self, path: Path, isa: str = "") -> Iterator[str]:
        """Yield the lines of a file with what it includes in place.

        A header is left out once it stands outside of every `#if`. Below one it may be skipped by
        the preprocessor, so it enters again where it is needed next, and its guard decides.

        Args:
            path: the file.
            isa: the instruction set that the file which includes this one is written for.
        """
        path = path.resolve()
        suffix = isa or self._vectors.isa(path) if path in self._vectors.files else ""
        if (path, suffix) in self._seen:
            return
        text = self._vectors.renamed(_read(path), suffix)
        guard = _GUARD.search(text)
        if guard and self._depth == 0:
            self._seen.add((path, suffix))
        rule = f"// ---- {path.relative_to(self._root).as_posix()} "
        yield rule + "-" * max(4, 100 - len(rule))
        yield ""
        self._depth -= guard is not None  # the guard itself does not count
        for line in text.rstrip("\n").split("\n"):
            yield from self._line(path, line, suffix)
        self._depth += guard is not None
        yield ""

    def _line(self, path: Path, line: str, isa: str) -> Iterator[str]:
        found = _INCLUDE.match(line)
        if found and found[1] == '"':
            yield from self._include(path, found[2], isa)
        elif found and found[2] == "string.h" and path.name != _MEMORY:
            return  # memory.h has brought it, or what replaces it
        elif line != _LICENCE:
            directive = _CONDITION.match(line)
            self._depth += {"if": 1, "endif": -1}.get(directive[1], 0) if directive else 0
            yield line

    def _include(self, path: Path, name: str, isa: str) -> Iterator[str]:
        for folder in (path.parent, self._root / "include", self._root / "src"):
            target = (folder / name).resolve()
            if target == self._public:
                yield '#include "bst.h"'
                return
            if target.is_file():
                yield from self.file(target, isa)
                return
        raise MissingToolError(
            f'{path.name} includes "{name}", which is not among the sources of the runtime',
            where=str(path),
            hint="pip install --force-reinstall bestdeploy",
        )


class _VectorFiles:
    """Which files are written in the vectors of an instruction set, and their private names.

    A file is where it says `bst_vec` or `bst_bits`, or includes a file that does; a name is private
    to them where no other file has it.

    Attributes:
        files: resolved paths.
    """

    def __init__(self, root: Path) -> None:
        kernels = sorted((root / "src" / "kernels").rglob("*.[ch]"))
        texts = {path.resolve(): _read(path) for path in kernels}
        self.files = {path for path, text in texts.items() if _VECTORS.search(text)}
        while more := {p for p in texts.keys() - self.files if self._included(p, texts[p])}:
            self.files |= more
        everything = {path.resolve() for path in root.rglob("*.[ch]")}
        public = {name for path in everything - self.files for name in _NAME.findall(_read(path))}
        self._names = {n for p in self.files for n in _NAME.findall(texts[p])} - public

    def _included(self, path: Path, text: str) -> list[Path]:
        names = (found[2] for line in text.split("\n") if (found := _INCLUDE.match(line)))
        targets = ((path.parent / name).resolve() for name in names)
        return [target for target in targets if target in self.files]

    def isa(self, path: Path) -> str:
        """Return what a `.c` file is written for: its vocabulary, a header beside the folders."""
        kernels = path.parents[1]
        found = [p.stem for p in self._included(path, _read(path)) if p.parent == kernels]
        return found[0] if found else path.stem

    def renamed(self, text: str, isa: str) -> str:
        """Return the text with `_on_<isa>` behind every private name."""
        if not isa:
            return text
        return _NAME.sub(
            lambda found: f"{found[0]}_on_{isa}" if found[0] in self._names else found[0], text
        )


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise MissingToolError(
            "a C source of the runtime is missing from this installation",
            where=str(path),
            hint="pip install --force-reinstall bestdeploy",
        ) from error


# ---- the model as a header ----------------------------------------------------------------------


def model_header(content: bytes, facts: ModelFacts, name: str) -> str:
    """Return model.h of a `.bstm`.

    The file becomes 64-bit words: an eighth of the numbers for the compiler to read, and the
    alignment that the runtime asks for. Little-endian machines only, as everywhere.
    """
    height, width, channels = facts.frame_shape[-3:]
    numbers: Mapping[str, tuple[int, str]] = {
        "MODEL_FILE_BYTES": (len(content), "the .bstm below"),
        "MODEL_BYTES": (facts.model_bytes, "buffer of bst_model_init"),
        "MODEL_ARENA_BYTES": (facts.arena_bytes, "buffer of bst_session_init"),
        "MODEL_FRAME_STEPS": (_steps(facts.frame_shape), "images in a frame: 1, or one per step"),
        "MODEL_HEIGHT": (height, "of a frame: uint8 [steps, height, width, channels]"),
        "MODEL_WIDTH": (width, ""),
        "MODEL_CHANNELS": (channels, ""),
        "MODEL_FRAME_BYTES": (int(np.prod(facts.frame_shape)), ""),
        "MODEL_CLASSES": (len(facts.class_names), "raw logits"),
        "MODEL_GOLDEN": (facts.n_golden, "test vectors in the file, see bst_model_golden"),
    }
    lines = [
        _LICENCE if not name else f"// {_comment(name)}: made by `bestdeploy compile --target c`.",
        "// Include it in one C file. Sizes are for 64-bit machines; a 32-bit one needs less.",
        "",
        "#ifndef MODEL_H_",
        "#define MODEL_H_",
        "",
        "#include <stdint.h>",
        "",
        *(_define(key, value, note) for key, (value, note) in numbers.items()),
        "",
        "#define MODEL_CLASS_NAMES \\",
        *_initialiser([_c_string(text) for text in facts.class_names]),
        "",
        "#ifdef __cplusplus",
        "alignas(64)",
        "#else",
        "_Alignas(64)",
        "#endif",
        f"static const uint64_t model_file[{-(-len(content) // 8)}] = {{",
        *_words(content),
        "};",
        "",
        "#endif  // MODEL_H_",
    ]
    return "\n".join(lines) + "\n"


def _steps(frame_shape: Sequence[int]) -> int:
    return frame_shape[0] if len(frame_shape) == 4 else 1


def _define(key: str, value: int, note: str) -> str:
    line = f"#define {key} {value}"
    return f"{line}  // {note}" if note else line


def _initialiser(items: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a brace initialiser inside a macro."""
    yield "  { \\"
    for item in items:
        yield f"    {item}, \\"
    yield "  }"


def _words(content: bytes) -> Iterator[str]:
    padded = content + bytes(-len(content) % 8)
    words = np.frombuffer(padded, "<u8").tolist()
    for start in range(0, len(words), _WORDS_PER_LINE):
        yield "  " + " ".join(f"0x{w:x}u," for w in words[start : start + _WORDS_PER_LINE])


def _comment(text: str) -> str:
    """Return a text that cannot leave a line comment."""
    return "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in text)


def _c_string(text: str) -> str:
    """Return a C string literal; everything but plain characters as octal bytes of UTF-8."""
    plain = set(map(ord, " !#$%&'()*+,-./:;<=>@[]^_`{|}~"))  # no quote, backslash, `?` (trigraphs)
    body = "".join(
        chr(byte) if (byte < 128 and chr(byte).isalnum()) or byte in plain else f"\\{byte:03o}"
        for byte in text.encode("utf-8")
    )
    return f'"{body}"'
