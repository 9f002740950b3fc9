"""`inspect`: what a file holds and what it costs, as plain data for a table or JSON.

| file                             | layers from            | spikes of --data recorded in      |
|----------------------------------|------------------------|-----------------------------------|
| .bstm, bundle, packed model.onnx | the program            | the C runtime                     |
| any other graph of ours          | its ops                | the numpy references              |
| checkpoint                       | tensor shapes          | its graph in the numpy references |
| any other .onnx                  | convolutions, products | -                                 |

Frames are read and counted batch by batch: memory does not grow with the data. A `.bstm` needs
numpy alone; what needs more is imported when it is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bestdeploy._inspect.common import CHECKPOINTS, Request, refuse_settings
from bestdeploy._inspect.program import inspect_bstm, inspect_bundle

__all__ = ["Request", "inspect_file"]


def inspect_file(path: str | Path, request: Request) -> dict[str, Any]:
    """Describe a file or bundle; see `bestdeploy.deploy.inspect`."""
    path = Path(path)
    if path.is_dir() or (path.exists() and path.suffix not in CHECKPOINTS):
        refuse_settings(path, request)
    if path.is_dir():
        return inspect_bundle(path, request)
    if path.suffix == ".onnx":
        from bestdeploy._inspect.graph import inspect_onnx

        return inspect_onnx(path, request)
    if path.suffix in CHECKPOINTS:
        from bestdeploy._inspect.checkpoint import inspect_checkpoint

        return inspect_checkpoint(path, request)
    return inspect_bstm(path, request)
