"""Sources of still images."""

from __future__ import annotations

import numpy as np

from error_table.definition import Case
from error_table.makers import (
    both,
    file,
    folder,
    idx,
    npy,
    npz,
    picture,
    png_header,
    preprocessing,
    without_end,
)

SOURCES = "give an image, a folder, .npy, .npz, *-idx3-ubyte.gz, or - for raw frames"
DAMAGED = "the file may be damaged"
METADATA = "the model's preprocessing metadata is damaged: export the model again"
LABELS = "`labels` holds one whole number per frame"
FRAME = (8, 8, 1)
STACK = np.zeros((3, *FRAME), np.uint8)

IMAGE_CASES: tuple[Case, ...] = (
    Case("run bundle none.png", 7, "`none.png` does not exist", SOURCES),
    Case(
        "run bundle notes.txt",
        7,
        "`notes.txt` is of no known type (.txt)",
        SOURCES,
        make=file("notes.txt", "?"),
    ),
    Case(
        "run bundle nosuffix",
        7,
        "`nosuffix` is of no known type (no suffix)",
        SOURCES,
        make=file("nosuffix", "?"),
    ),
    Case("run bundle empty", 7, "`empty` holds no frames", SOURCES, make=folder("empty")),
    Case(
        "run bundle none.npy",
        7,
        "`none.npy` holds no frames",
        SOURCES,
        make=npy("none.npy", STACK[:0]),
    ),
    # image files
    Case(
        "run bundle text.png",
        7,
        "`text.png` cannot be read as an image: cannot identify image file 'text.png'",
        DAMAGED,
        make=file("text.png", "no image"),
    ),
    Case(
        "run bundle huge.png",
        7,
        "`huge.png` is too large: Image size *",
        "scale it down before it is read here",
        make=png_header("huge.png", 20000, 20000),
    ),
    Case(
        "run bundle deep.png",
        7,
        "`deep.png` has colour mode I;16, expected L (1 channels)",
        "convert the file to gray",
        make=picture("deep.png", "I;16", (8, 8)),
    ),
    Case(
        "run changed.onnx big.png",
        7,
        "`big.png` is 9x8 pixels, expected 8x8",
        "the model's preprocessing names no resizing: resize the file",
        make=both(preprocessing(resize=None), picture("big.png", "L", (9, 8))),
    ),
    Case(
        "run changed.onnx rgb.png",
        7,
        "`rgb.png` has colour mode RGB, expected L (1 channels)",
        "convert the file to gray",
        make=both(preprocessing(color=None), picture("rgb.png", "RGB", (8, 8))),
    ),
    Case(
        "run two.onnx image.png",
        7,
        "the model takes 2 channels, image files have 1 or 3",
        "give the frames as .npy",
    ),
    Case(
        "run changed.onnx image.png",
        7,
        "preprocessing color is `blue`, expected rgb or gray",
        METADATA,
        where="preprocessing",
        make=preprocessing(color="blue"),
    ),
    Case(
        "run changed.onnx image.png",
        7,
        "preprocessing filter is `box`, expected one of nearest, bilinear, bicubic, lanczos",
        METADATA,
        where="preprocessing",
        make=preprocessing(filter="box"),
    ),
    Case(
        "run changed.onnx image.png",
        7,
        "preprocessing resize is `tiles`, expected short-side, stretch or a size",
        METADATA,
        where="preprocessing",
        make=preprocessing(resize="tiles"),
    ),
    Case(
        "run changed.onnx image.png",
        7,
        "resized to 4x4, smaller than the crop 8x8",
        METADATA,
        where="preprocessing",
        make=preprocessing(resize=4),
    ),
    # arrays
    Case(
        "run bundle float.npy",
        7,
        "`float.npy` has dtype float32, expected uint8",
        "give pixels 0..255 as they are; the model normalises them itself",
        make=npy("float.npy", STACK.astype(np.float32)),
    ),
    Case(
        "run bundle size.npy",
        7,
        "`size.npy` has shape [3, 7, 8, 1], expected [N, 8, 8, 1]",
        "arrays hold frames of the exact size, channel last",
        make=npy("size.npy", STACK[:, :7]),
    ),
    Case(
        "run bundle fortran.npy",
        7,
        "`fortran.npy` holds images in Fortran order",
        "save np.ascontiguousarray(x)",
        make=npy("fortran.npy", np.asfortranarray(STACK)),
    ),
    Case(
        "run bundle cut.npy",
        7,
        "`cut.npy` ends within frame 2 of 3",
        DAMAGED,
        make=without_end("cut.npy", 9, npy("cut.npy", STACK)),
    ),
    Case(
        "run bundle text.npy",
        7,
        "`text.npy` is not a valid .npy file: the magic string is not correct; "
        "expected b'\\x93NUMPY', got b'no arr'",
        DAMAGED,
        make=file("text.npy", "no array"),
    ),
    Case(
        "run bundle text.npz",
        7,
        "`text.npz` is not a valid .npz file: File is not a zip file",
        DAMAGED,
        make=file("text.npz", "no archive"),
    ),
    Case(
        "run bundle other.npz",
        7,
        "`other.npz` has no array `images`, only x",
        "np.savez(path, images=uint8 frames, labels=...)",
        make=npz("other.npz", x=STACK),
    ),
    Case(
        "run bundle labels.npz",
        7,
        "`labels.npz` has 2 labels for 3 frames",
        LABELS,
        make=npz("labels.npz", images=STACK, labels=np.arange(2)),
    ),
    Case(
        "run bundle words.npz",
        7,
        "`words.npz` labels are <U1 [3], expected integer [N]",
        LABELS,
        make=npz("words.npz", images=STACK, labels=np.array(["a", "b", "c"])),
    ),
    # IDX files
    Case(
        "run bundle t10k-images-idx3-ubyte.gz",
        7,
        "`t10k-images-idx3-ubyte.gz` is not a valid IDX file: Not a gzipped file (b'no')",
        DAMAGED,
        make=file("t10k-images-idx3-ubyte.gz", "no gzip"),
    ),
    Case(
        "run bundle b-idx1-ubyte.gz",
        7,
        "`b-idx1-ubyte.gz` starts with 00000801, expected 00000803 (IDX, uint8, 3 dimensions)",
        "give the *-images-idx3-ubyte.gz file",
        make=idx("b-idx1-ubyte.gz", np.zeros(4, np.uint8)),
    ),
    Case(
        "run bundle t10k-images-idx3-ubyte.gz",
        7,
        "`t10k-labels-idx1-ubyte.gz` has 3 labels for 2 images",
        "the label file beside an IDX file must belong to it",
        make=both(
            idx("t10k-images-idx3-ubyte.gz", np.zeros((2, 8, 8), np.uint8)),
            idx("t10k-labels-idx1-ubyte.gz", np.zeros(3, np.uint8)),
        ),
    ),
    # raw frames
    Case(
        "run bundle -",
        7,
        "frame 3 ends after 8 bytes, expected 64 (8x8x1)",
        "a frame is raw uint8, without a header, of exactly this size",
        where="standard input",
        stdin=bytes(200),
    ),
    Case("run bundle -", 7, "`-` holds no frames", SOURCES),
    # events for a model of images
    Case(
        "run bundle recording.npz",
        7,
        "`recording.npz` is an event recording, the model takes still images",
        "export a model with --set input=events, or give images",
    ),
    Case(
        "run bundle recording.bin",
        7,
        "`recording.bin` is an event recording, the model takes still images [8, 8, 1]",
        SOURCES,
        make=file("recording.bin", bytes(10)),
    ),
)
