"""The parts of spiking networks once more, in float64 numpy with loops over time.

Independent of `training`: written from the equations of the papers and of the published code.
Sequences are lists of T arrays [B, C, H, W].
"""

from __future__ import annotations

import numpy as np


class Equations:
    """Layers of one network by their state-dict keys; outputs of neurons gather in ``spikes``."""

    def __init__(self, config, state):
        self.c = config
        self.w = {k: v.double().numpy() for k, v in state.items()}
        self.spikes = {}

    def kept(self, name, out):
        self.spikes[name] = np.stack(out)
        return out

    def lif(self, name, xs, theta=1.0):
        out, v = [], np.zeros_like(xs[0])
        for x in xs:
            leak = 1 / self.c.tau
            h = v + (x - v) * leak if self.c.decay_input else v * (1 - leak) + x
            s = (h >= theta).astype(np.float64)
            v = h * (1 - s)
            out.append(s)
        return self.kept(name, out)

    def weight(self, key):
        return self.w[f"{key}.weight"]

    def conv(self, key, x, stride=1, pad=None, groups=1):
        """A convolution of [B, C, H, W], taps in a loop."""
        w = self.weight(key)
        if w.ndim == 3:
            w = w[..., None]
        o, per, k, _ = w.shape
        p = k // 2 if pad is None else pad
        padded = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
        h, wd = ((n + 2 * p - k) // stride + 1 for n in x.shape[2:])
        out = np.zeros((len(x), o, h, wd))
        for i in range(k):
            for j in range(k):
                window = padded[:, :, i : i + stride * h : stride, j : j + stride * wd : stride]
                for g in range(groups):
                    rows = slice(g * o // groups, (g + 1) * o // groups)
                    out[:, rows] += np.einsum(
                        "oc,bchw->bohw", w[rows, :, i, j], window[:, g * per : (g + 1) * per]
                    )
        if f"{key}.bias" in self.w:
            out += self.w[f"{key}.bias"][:, None, None]
        return out

    def bn(self, key, x):
        g, b, m, v = (
            self.w[f"{key}.{k}"][:, None, None]
            for k in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - m) / np.sqrt(v + 1e-5) * g + b

    def conv_bn(self, conv, bn, xs, **kwargs):
        return [self.bn(bn, self.conv(conv, x, **kwargs)) for x in xs]

    def head(self, key, f):
        return f @ self.w[f"{key}.weight"].T + self.w[f"{key}.bias"]


def pool(x):
    """Maxima of 3x3 windows, stride 2, borders aside."""
    b, c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    out = np.zeros((b, c, -(-h // 2), -(-w // 2)))
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            out[:, :, i, j] = padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((2, 3))
    return out


def signs(w):
    """Binary weights: the sign of a row's deviation from its mean."""
    flat = w.reshape(len(w), -1)
    return np.sign(flat - flat.mean(1, keepdims=True)).reshape(w.shape)


def heads(x, n):
    """[B, D, H, W] -> [B, heads, d, N]."""
    return x.reshape(len(x), n, x.shape[1] // n, -1)
