"""What a network holds and what it costs: layers, firing rates, SOPs, NS-ACE, energy, sizes.

    layers     a row of the table: shapes, weights, dense MACs, how far a spike reaches
    of_*       the rows of a Program, a graph, a checkpoint's shapes, any ONNX file
    activity   counting spikes and the operations that they cause
    totals     sums, and the formulas of the literature
    published  what papers print, and what the formulas say

Pure computation on plain data: files are read in `bestdeploy._inspect`.
"""

from bestdeploy.report.activity import Counted, Recorder, events_of
from bestdeploy.report.layers import Kind, Layer, Reach
from bestdeploy.report.totals import (
    MIB,
    Energy,
    Parameters,
    Work,
    paper_bytes,
    parameters_of,
    rate_sops,
    work_of,
)

__all__ = [
    "MIB",
    "Counted",
    "Energy",
    "Kind",
    "Layer",
    "Parameters",
    "Reach",
    "Recorder",
    "Work",
    "events_of",
    "paper_bytes",
    "parameters_of",
    "rate_sops",
    "work_of",
]
