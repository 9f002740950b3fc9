"""The files that cases refer to by name, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from random_nets import Spec, images_of, save

from bestdeploy import deploy
from bestdeploy._bundle import lowered_bytes

IMAGES = Spec(seed=41, dim=16, heads=2, depth=1, n_steps=2, size=8, channels=1, classes=5)
TWO = Spec(seed=44, dim=8, heads=1, depth=1, n_steps=1, size=8, channels=2, classes=2)
THREE = Spec(seed=45, dim=8, heads=1, depth=1, n_steps=2, size=8, channels=3, classes=2,
             events=True)  # fmt: skip
EVENTS = Spec(seed=43, dim=16, heads=2, depth=1, n_steps=2, size=8, channels=2, classes=3,
              events=True)  # fmt: skip


def shared_files(folder: Path) -> None:
    """Write a network of images and one of events with everything that is made of them.

    ckpt.pt model.onnx model.std.onnx model.float.onnx bundle/ frames.npz image.png passes/
    events.pt events.onnx (std, float) events.bstm recording.npz    two.onnx three.onnx: images of
    two, events of three channels
    """
    save(folder / "ckpt.pt", IMAGES)
    frames = images_of(IMAGES, 4)
    np.savez(folder / "frames.npz", images=frames, labels=np.arange(4) % 5)
    Image.fromarray(frames[0, ..., 0]).save(folder / "image.png")
    deploy.export(folder / "ckpt.pt", folder / "model.onnx", dump_passes=folder / "passes")
    deploy.compile(folder / "model.onnx", output=folder / "bundle")

    save(folder / "events.pt", EVENTS)
    rng = np.random.default_rng(0)
    recording = {key: rng.integers(0, top, 40) for key, top in (("x", 8), ("y", 8), ("p", 2))}
    np.savez(folder / "recording.npz", **recording)
    deploy.export(folder / "events.pt", folder / "events.onnx")
    (folder / "events.bstm").write_bytes(lowered_bytes(folder / "events.onnx"))
    for name, spec in (("two", TWO), ("three", THREE)):
        deploy.export(save(folder / f"{name}.pt", spec), folder / f"{name}.onnx")
