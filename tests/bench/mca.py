"""llvm-mca on the inner loops of the NEON kernels: advisory, a model of a core and no core.

The loop is cut out of the disassembly of the compiled object: of all loops (a branch back within
one function) the shortest that holds enough of the wanted instructions. llvm-mca runs it straight
through: a loop inside is gone through once, and loads hit the first-level cache.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bestdeploy import toolchain

CORES = ("cortex-a53", "cortex-a72", "neoverse-n1")
_TRIPLE = "aarch64-linux-gnu"
_ITERATIONS = 200
_EXCLUSIVE_OR = "eor "  # two of them are in a full adder, seven full adders add eight rows
_ROW = r"ldr q\d+, \[x\d+, [xw]\d+"


class NoModelError(Exception):
    """llvm-mca or the disassembler is missing; the text says which."""


@dataclass(frozen=True)
class Loop:
    """A loop of a function: its assembly, branch targets replaced by a label."""

    function: str
    lines: tuple[str, ...]

    def number_of(self, pattern: str) -> int:
        """Return how many instructions match a regular expression."""
        return sum(bool(re.match(pattern, line)) for line in self.lines)


def _tool(*names: str) -> str:
    for name in names:
        path = shutil.which(name)
        if path:
            return path
    raise NoModelError(f"{names[0]} is missing: apt install llvm binutils-{_TRIPLE}")


def loops_of(binary: Path, function: str) -> list[Loop]:
    """Return all loops of the functions whose name begins with `function`."""
    objdump = _tool(f"{_TRIPLE}-objdump", "llvm-objdump")
    command: list[str | Path] = [objdump, "-d", "--no-show-raw-insn", binary]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: list[Loop] = []
    for head, body in re.findall(r"^[0-9a-f]+ <([^>]+)>:\n((?:.+\n)*)", text, flags=re.MULTILINE):
        if head.startswith(function):
            found += _loops(head, body)
    return found


def _loops(function: str, body: str) -> list[Loop]:
    instructions = []
    for line in body.splitlines():
        matched = re.match(r"\s*([0-9a-f]+):\s+(.*?)\s*(//.*)?$", line)
        if matched:
            instructions.append((int(matched[1], 16), matched[2].replace("\t", " ")))
    places = {address: i for i, (address, _) in enumerate(instructions)}
    found = []
    for end, (_, text) in enumerate(instructions):
        matched = re.match(r"(b\.\w+|cbn?z|tbn?z|b) (?:.*, )?([0-9a-f]+) <", text)
        if matched and matched[1] != "bl" and places.get(int(matched[2], 16), end + 1) <= end:
            lines = [text for _, text in instructions[places[int(matched[2], 16)] : end + 1]]
            if not any(re.match(r"bl |ret|blr ", line) for line in lines):
                found.append(Loop(function, tuple(map(_with_label, lines))))
    return found


def _with_label(text: str) -> str:
    return re.sub(r"[0-9a-f]+ <[^>]*>", "bench_label", text)


def tightest(loops: list[Loop], pattern: str, at_least: int) -> Loop:
    """Return the shortest loop that holds so many instructions that match."""
    good = [loop for loop in loops if loop.number_of(pattern) >= at_least]
    if not good:
        raise NoModelError("the loop was not found in the compiled code")
    return min(good, key=lambda loop: len(loop.lines))


def cycles(loop: Loop, core: str) -> float:
    """Return the modelled cycles of one round of a loop."""
    command = [_tool("llvm-mca", "llvm-mca-19", "llvm-mca-14")]
    command += [f"-mtriple={_TRIPLE}", f"-mcpu={core}", f"-iterations={_ITERATIONS}"]
    source = "bench_label:\n" + "\n".join(loop.lines) + "\n"
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    matched = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if matched is None:
        raise NoModelError(f"llvm-mca failed for {core}: {done.stderr.strip()[:300]}")
    return int(matched[1]) / _ITERATIONS


def accumulate_loop() -> Loop:
    """Return the loop of our NEON accumulator, of the kernel with a neuron where both have one."""
    library = toolchain.build_static_library("arm")
    loops = loops_of(library.parent / "obj" / "kernels_spike_conv_neon.o", "bst_")
    neuron = [loop for loop in loops if "affine" not in loop.function]
    return tightest(neuron, _EXCLUSIVE_OR, 14)


def dense_loop(program: Path) -> Loop:
    """Return the loop of the dense NEON rival, from an unstripped kernels_bench."""
    return tightest(loops_of(program, "rival_neon_run"), "cnt ", 4)


def rows_per_round(loop: Loop) -> int:
    """Return how many rows of 128 lanes one round of the accumulator adds."""
    return loop.number_of(_ROW)


def macs_per_round(loop: Loop) -> int:
    """Return how many multiplications one round of the dense kernel does."""
    return 128 * loop.number_of("cnt ")
