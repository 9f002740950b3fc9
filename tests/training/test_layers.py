from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from training.layers import BinaryConv1d, BinaryConv2d, binarise  # noqa: E402


def test_sign_of_the_centred_row():
    weight = torch.tensor([[1.0, 2.0, 6.0], [-1.0, -1.0, -4.0]]).view(2, 3, 1)
    assert binarise(weight).view(2, 3).tolist() == [[-1, -1, 1], [1, 1, -1]]


def test_exact_zero_follows_the_variant():
    weight = torch.tensor([[-1.0, 0.0, 1.0]]).view(1, 3, 1)
    assert binarise(weight, "official").flatten().tolist() == [-1, 0, 1]
    assert binarise(weight, "paper").flatten().tolist() == [-1, 1, 1]


def test_sign_is_that_of_the_exact_difference():
    # A float32 row mean may round up to the first element, and its sign would be lost.
    row = torch.full((4097,), 1.0)
    row[0] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    out = binarise(row.view(1, -1, 1)).flatten()
    assert out[0] == 1
    assert (out[1:] == -1).all()


@pytest.mark.parametrize("layer", [BinaryConv1d(6, 8, 1), BinaryConv2d(6, 8, 3, padding=1)])
def test_gradient_is_straight_through_the_sign_and_exact_through_the_statistics(layer):
    generator = torch.Generator().manual_seed(0)
    shape = (2, 6, 5, 5) if isinstance(layer, BinaryConv2d) else (2, 6, 5)
    x = torch.randint(0, 2, shape, generator=generator).double()
    layer = layer.double()
    y = layer(x)
    weight = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    (y * weight).sum().backward()

    w = layer.weight.detach().clone().requires_grad_()
    rows = w.flatten(1)
    v = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)
    b = v.detach().sign().requires_grad_()
    conv = (
        torch.nn.functional.conv2d
        if isinstance(layer, BinaryConv2d)
        else torch.nn.functional.conv1d
    )
    y_ref = conv(x, b.view_as(w), padding=layer.padding)
    assert torch.equal(y, y_ref)
    assert torch.equal(y, y.round())
    (db,) = torch.autograd.grad((y_ref * weight).sum(), b)
    (want,) = torch.autograd.grad(v, w, db)
    torch.testing.assert_close(layer.weight.grad, want)
    # the mean and the radial component are projected out
    got = layer.weight.grad.flatten(1)
    torch.testing.assert_close(got.sum(1), torch.zeros(8, dtype=torch.float64), atol=1e-9, rtol=0)


def test_no_bias_and_only_the_latent_weight_is_stored():
    assert list(BinaryConv1d(4, 4, 1).state_dict()) == ["weight"]
    assert BinaryConv1d(4, 6, 1).weight.shape == (6, 4, 1)
    assert BinaryConv2d(4, 6, 3).weight.shape == (6, 4, 3, 3)


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_a_row_without_a_sign_is_refused(value):
    weight = torch.randn(3, 4, 1)
    weight[1] = value
    with pytest.raises(ValueError, match="row 1"):
        binarise(weight)


def test_unknown_variant_is_named():
    with pytest.raises(ValueError, match="fancy"):
        BinaryConv2d(4, 4, 1, variant="fancy")
