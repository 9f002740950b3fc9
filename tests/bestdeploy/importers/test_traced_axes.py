"""What axes run over, through reshapes and permutations, against numbered arrays."""

from __future__ import annotations

import numpy as np
import pytest

from bestdeploy.importers.traced import axes as ax

MAP = tuple(ax.axis(a) for a in (("T", 3), ("B", 2), ("C", 8), ("H", 4), ("W", 5)))


def indices(axes):
    """Return per atom where it stands at every position of a tensor with these axes."""
    atoms = [a for part in axes for a in part]
    grids = np.indices([n for _, n in atoms])
    return {name: g.reshape(ax.shape(axes)) for (name, _), g in zip(atoms, grids, strict=True)}


def channels(found):
    """Return the channel at every position, whether it stands in heads or not."""
    return found["C"] if "C" in found else found["h"] * 2 + found["d"]


@pytest.mark.parametrize(
    ("shape", "order", "last"),
    [
        ((6, 8, 20), (0, 2, 1), (3, 2, 20, 8)),
        ((3, 2, 8, 20), (0, 1, 3, 2), (3, 2, 20, 4, 2)),
        ((3, 2, 4, 2, 20), (0, 1, 2, 4, 3), (3, 2, 4, 20, 2)),
        ((3, 2, 8, 4, 5), (0, 1, 3, 4, 2), (120, 8)),
        ((1, 3, 2, 160), (1, 2, 0, 3), (3, 2, 8, 1, 20)),
    ],
)
def test_reshapes_are_followed(shape, order, last):
    one = ax.regrouped(MAP, shape)
    two = ax.regrouped(ax.permuted(one, order), last)
    found, now = indices(MAP), indices(two)
    for name in "TBHW":
        wanted = found[name].reshape(shape).transpose(order).reshape(last)
        np.testing.assert_array_equal(now[name], wanted, err_msg=name)
    wanted = found["C"].reshape(shape).transpose(order).reshape(last)
    np.testing.assert_array_equal(channels(now), wanted)


@pytest.mark.parametrize("shape", [(2, 3, 8, 4, 5), (3, 2, 8, 5, 4), (3, 2, 16, 10), (4, 240)])
def test_reshapes_that_tear_atoms_apart_have_no_axes(shape):
    assert ax.regrouped(MAP, shape) is None


def test_heads_are_joined_again_and_ones_are_nothing():
    heads = ax.regrouped(MAP[2:3], (4, 1, 2))
    assert heads == ((("h", 4),), (), (("d", 2),))
    assert ax.regrouped(heads, (1, 8)) == ((), (("C", 8),))
    assert ax.regrouped(ax.permuted(heads, (2, 1, 0)), (8,)) == ((("d", 2), ("h", 4)),)
    assert ax.words(heads) == "[h, 1, d]"
