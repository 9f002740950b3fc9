"""Other CPUs, emulated: golden vectors of small networks that together hold every op."""

from __future__ import annotations

import json
import subprocess

import programs
import pytest

from bestdeploy import toolchain
from bestdeploy.emit.bstm import write_bstm
from bestdeploy.errors import MissingToolError
from bestdeploy.program import Op

NETWORKS = {
    "qk": {},
    "kv-events": {"attention": "kv", "events": True, "residual": "plain", "readout": "residual"},
    "kv-tables": {
        "attention": "kv",
        "forms": (1, 1),
        "dim": 130,
        "heads": 2,
        "n_t": 10,
        "tau": 1.5,
    },
    "stream": {"begin": "stream", "events": True, "stem": 9},
    "add": {"attention": "add", "dim": 66, "heads": 3},
    "gates": {"attention": "gate", "dim": 130, "readout": "tokens"},
    "levels": {"levels": 4, "dim": 70, "heads": 2, "stem": 9},
    "weights": {"weights": 4, "dim": 70, "heads": 2},
    "weights-stream": {"weights": 3, "dim": 70, "heads": 2, "readout": "one"},
    "first": {"first": (1 << 22, 0, -(1 << 20), -(1 << 24)), "readout": "one", "forms": (1, 1)},
}


def program_of(name):
    return programs.with_golden(programs.network(**NETWORKS[name]), 2)


def test_the_networks_hold_every_op():
    used = {step.op for name in NETWORKS for step in program_of(name).steps}
    assert used == set(Op)


@pytest.mark.parametrize("target", ("arm", "armv7"))
def test_golden_vectors_under_an_emulator(tmp_path, target):
    emulator = toolchain.find_emulator(target)
    if emulator is None:
        pytest.skip(f"no emulator for {target}")
    try:
        bst_run = toolchain.build_program("bst_run", target)
    except MissingToolError as error:
        pytest.skip(f"no compiler for {target}: {error}")
    for name in NETWORKS:
        path = tmp_path / f"{name}.bstm"
        write_bstm(program_of(name), path)
        command = [*emulator, bst_run, path, "--golden"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (name, done.stderr)
        assert json.loads(done.stdout) == {"golden": 2, "equal": 2}, name
