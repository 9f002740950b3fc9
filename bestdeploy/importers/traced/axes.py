"""What the axes of a tensor run over, so that reshapes and permutations are followed, not guessed.

An axis is a row of atoms, from the slowest to the fastest: [T*B, C, H*W] is ((T, B), (C,), (H, W)).

    T steps, B images, H rows, W columns, C channels, which reshapes may part into h heads of d, or
    into p parts (q, k, v) of h heads of d

Atoms of size 1 are left out: an axis of size 1 is empty. So a reshape has one meaning at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Atom = tuple[str, int]
Axis = tuple[Atom, ...]
Axes = tuple[Axis, ...]


def axis(*atoms: Atom) -> Axis:
    """Return an axis of these atoms, heads and their channels joined."""
    found: list[Atom] = []
    for name, size in atoms:
        if size == 1:
            continue
        if found and found[-1][0] == "h" and name == "d":
            name, size = "C", found.pop()[1] * size
        if found and found[-1][0] == "p" and name == "C":
            size *= found.pop()[1]
        found.append((name, size))
    return tuple(found)


def shape(axes: Axes) -> tuple[int, ...]:
    """Return the sizes of axes."""
    return tuple(math.prod(size for _, size in part) for part in axes)


def names(axes: Sequence[Axis]) -> list[str]:
    """Return the names of all atoms, in order."""
    return [name for part in axes for name, _ in part]


def size(axes: Sequence[Axis], name: str) -> int:
    """Return how far an atom runs, 1 where there is none."""
    return math.prod(n for part in axes for atom, n in part if atom == name)


def words(axes: Axes) -> str:
    """Return axes for messages: [T B, C, H W]."""
    return f"[{', '.join(' '.join(name for name, _ in part) or '1' for part in axes)}]"


def regrouped(axes: Axes, target: Sequence[int]) -> Axes | None:
    """Return the axes of a reshape, None where it would tear an atom other than C apart."""
    left = list(axis(*(atom for part in axes for atom in part)))
    found: list[Axis] = []
    for wanted in target:
        taken: list[Atom] = []
        rest = wanted
        while rest > 1 and left:
            name, n = left.pop(0)
            if rest % n == 0:
                taken.append((name, n))
                rest //= n
            elif name == "C" and n % rest == 0:
                taken.append(("h", rest))
                left.insert(0, ("d", n // rest))
                rest = 1
            elif name == "d" and n % rest == 0 and _may_part(found):
                found = [tuple(("p" if a == "h" else a, m) for a, m in part) for part in found]
                taken.append(("h", rest))
                left.insert(0, ("d", n // rest))
                rest = 1
            else:
                return None
        if rest != 1:
            return None
        found.append(axis(*taken))
    return None if left else tuple(found)


def _may_part(found: Sequence[Axis]) -> bool:
    """Tell whether heads in front, of which there are no parts yet, may become parts."""
    return names(found).count("h") == 1 and "p" not in names(found)


def permuted(axes: Axes, order: Sequence[int]) -> Axes:
    """Return the axes of a permutation."""
    return tuple(axes[i % len(axes)] for i in order)
