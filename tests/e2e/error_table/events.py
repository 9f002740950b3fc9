"""Sources of events."""

from __future__ import annotations

import numpy as np

from error_table.definition import Case, Make
from error_table.makers import file, npy, npz

SOURCES = "give an event file (.npy .npz .bin .dat .raw), a folder of them, or - for raw frames"
COUNTS_ONLY = "event models take numbers of events, not normalised values"
COLUMNS = "a recording has one number per event in x, y, p and t"
SHAPE = (2, 8, 8, 2)
COUNTS = np.zeros(SHAPE, np.uint8)


def recording(**changes: object) -> Make:
    columns = {key: np.arange(20) % top for key, top in (("x", 8), ("y", 8), ("p", 2))}
    return npz("r.npz", **{**columns, **changes})


EVT2 = b"% evt 2.0 \n"

EVENT_CASES: tuple[Case, ...] = (
    # frames
    Case("run events.bstm none.npz", 7, "`none.npz` does not exist", SOURCES),
    Case(
        "run events.bstm image.png",
        7,
        "`image.png` is a still image, the model takes events [2, 8, 8, 2]",
        SOURCES,
    ),
    Case(
        "run events.bstm t10k-images-idx3-ubyte",
        7,
        "`t10k-images-idx3-ubyte` is a still image, the model takes events [2, 8, 8, 2]",
        SOURCES,
        make=file("t10k-images-idx3-ubyte", "?"),
    ),
    Case(
        "run events.bstm notes.txt",
        7,
        "`notes.txt` is of no known type (.txt)",
        SOURCES,
        make=file("notes.txt", "?"),
    ),
    Case(
        "run events.bstm size.npy",
        7,
        "`size.npy` has shape [3, 2, 8, 9, 2], expected [N, 2, 8, 8, 2] or [2, 8, 8, 2]",
        "arrays hold frames of the exact size, channel last",
        make=npy("size.npy", np.zeros((3, 2, 8, 9, 2), np.uint8)),
    ),
    Case(
        "run events.bstm complex.npy",
        7,
        "`complex.npy` has dtype complex128, expected uint8 or whole numbers",
        "event models take numbers of events",
        make=npy("complex.npy", COUNTS.astype(complex)),
    ),
    Case(
        "run events.bstm normal.npy",
        7,
        "`normal.npy` holds 0.5 at [step, y, x, channel] = [0, 0, 0, 0], expected a "
        "count: a whole number >= 0",
        COUNTS_ONLY,
        make=npy("normal.npy", COUNTS + 0.5),
    ),
    Case(
        "run events.bstm negative.npy",
        7,
        "`negative.npy` holds -1 at [step, y, x, channel] = [0, 0, 0, 0], expected a "
        "count: a whole number >= 0",
        COUNTS_ONLY,
        make=npy("negative.npy", COUNTS.astype(int) - 1),
    ),
    Case(
        "run events.bstm other.npz",
        7,
        "`other.npz` has no array `images` or `frames`, only a",
        "np.savez(path, images=uint8 frames, labels=...)",
        make=npz("other.npz", a=COUNTS),
    ),
    Case(
        "run events.bstm hot.npy --strict-events",
        7,
        "`hot.npy` counts 256 events at step 1, x 0, y 0, channel 0; a frame holds at most 255",
        "without --strict-events such counts become 255",
        make=npy("hot.npy", COUNTS.astype(int) + 256),
    ),
    Case(
        "run events.bstm -",
        7,
        "frame 1 ends after 44 bytes, expected 256 (2x8x8x2)",
        "a frame is raw uint8, without a header, of exactly this size",
        where="standard input",
        stdin=bytes(300),
    ),
    # recordings
    Case(
        "run events.bstm r.npz",
        7,
        "events outside the frame: event 8 of `r.npz` is at x 8, y 0, the model's frame is 8x8",
        "crop or scale the recording to the frame that the model was trained on",
        make=recording(x=np.arange(20)),
    ),
    Case(
        "run events.bstm r.npz",
        7,
        "`r.npz` has 20 values in x and 19 in y",
        COLUMNS,
        make=recording(y=np.arange(19) % 8),
    ),
    Case(
        "run events.bstm r.npz",
        7,
        "`r.npz` p[0] is -1, expected 0 (off) or 1 (on)",
        "p = (p > 0) where off is written as -1",
        make=recording(p=np.full(20, -1)),
    ),
    Case(
        "run events.bstm r.npz",
        7,
        "`r.npz` x holds fractions, expected whole numbers",
        "pixel coordinates and polarities are whole numbers",
        make=recording(x=np.full(20, 0.5)),
    ),
    Case(
        "run events.bstm r.npz",
        7,
        "`r.npz` x is <U1 [20], expected numbers [N]",
        COLUMNS,
        make=recording(x=np.array(["a"] * 20)),
    ),
    Case(
        "run events.bstm r.npz",
        7,
        "`r.npz` t holds a time that is not finite",
        "t orders the events",
        make=recording(t=np.full(20, np.inf)),
    ),
    Case(
        "run events.bstm r.npz",
        7,
        "`r.npz` offsets must rise from 0 to 20, found 2 of them from 0 to 30",
        "recording k holds the events offsets[k] .. offsets[k+1] - 1",
        make=recording(offsets=[0, 30]),
    ),
    Case(
        "run events.bstm r.npz",
        7,
        "`r.npz` has 1 labels for 2 recordings",
        "`labels` holds one whole number per recording",
        make=recording(offsets=[0, 10, 20], labels=[1]),
    ),
    Case(
        "run events.bstm r.npz",
        7,
        "`r.npz[0]` holds no events",
        "is the recording empty or damaged?",
        make=recording(offsets=[0, 0, 20]),
    ),
    Case(
        "run events.bstm fields.npy",
        7,
        "`fields.npy` has fields x, y and shape [3], expected fields x, y, p (and t) and shape [N]",
        "rename the fields, or save x, y, p as an .npz",
        make=npy("fields.npy", np.zeros(3, [("x", "u1"), ("y", "u1")])),
    ),
    # files of cameras
    Case(
        "run events.bstm cut.bin",
        7,
        "`cut.bin` has 9 bytes, expected a multiple of 5 (N-MNIST)",
        "a .bin file holds 40-bit N-MNIST records; raw frames are read from -",
        make=file("cut.bin", bytes(9)),
    ),
    Case(
        "run events.bstm raw.raw",
        7,
        "`raw.raw` has no header line that says EVT2 or EVT3",
        "a .raw file is a Prophesee recording; raw frames are read from -",
        make=file("raw.raw", bytes(256)),
    ),
    Case(
        "run events.bstm cut.raw",
        7,
        "`cut.raw` has 7 bytes of evt2 events, expected a multiple of 4",
        "the file may be cut off",
        make=file("cut.raw", EVT2 + bytes(7)),
    ),
    Case(
        "run three.onnx recording.npz",
        7,
        "`recording.npz` has two polarities, the model takes 3 channels",
        "give frames [N, T, H, W, C] as .npy",
    ),
    Case(
        "run events.bstm odd.raw",
        7,
        "`odd.raw` is not a valid evt2 file",
        "the file may be damaged",
        make=file("odd.raw", EVT2 + b"\0\0\0\x20"),
        needs="expelliarmus",
    ),
    Case(
        "run events.bstm a.dat",
        3,
        "reading `a.dat` needs expelliarmus",
        "pip install 'bestdeploy[events]'",
        make=file("a.dat", bytes(10)),
        hidden=("expelliarmus",),
    ),
)
