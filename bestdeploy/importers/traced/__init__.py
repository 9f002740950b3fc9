"""Any torch module made of known parts: run once on an example, its parts recorded as ops.

Modules of the classes in `PARTS` (dotted names: nothing of theirs is imported) are opaque: a layer
and the batch norm behind it, a neuron, a pool, a linear head become our ops under the module's own
name. Between them stand tensor functions: moving axes, sums of streams, sums and products of
spikes, products of attention, parts of channels, maxima, means. Anything else is refused by name.
Control flow is Python's own: what ran on the example is what is exported.

    classes.py    the classes that are known          known.py      what is known of a tensor
    axes.py       what its axes run over              tracer.py     running the module
    layers.py     convolutions, linear layers, norms  neurons.py    neurons
    weights.py    their weights, grouped ones too     functions.py  tensor functions
    pools.py      maxima, averages                    windows.py    averages that layers take up
    heads.py      means and the linear head           attention.py  products of spikes with spikes
    parts.py      parts of channels

In the graph a tensor is a map [T, B, H, W, C]; tokens are the cells of a map. A map without a time
axis, or repeated over it, is constant and its convolution runs once. Where it is added to others, a
second trace repeats it from the beginning.
"""

from bestdeploy.importers.traced.classes import PARTS, class_name
from bestdeploy.importers.traced.tracer import NAME, is_module, trace

__all__ = ["NAME", "PARTS", "class_name", "is_module", "trace"]
