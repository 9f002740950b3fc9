"""Shared by all tests: seeds, golden vectors, small random networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from random_nets import Spec, images_of, save

settings.register_profile("bestdeploy", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("bestdeploy")

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = {"attention": "qk", "tau": 2.0, "decay_input": True, "variant": "official"}
PUBLISHED_KV = {**PUBLISHED, "attention": "kv"}


@pytest.fixture(scope="session")
def golden_vectors():
    """Images, raw logits and spike counts of the published-layout golden checkpoint."""
    with np.load(GOLDEN / "bestformer_qk.npz") as held:
        return dict(held)


@pytest.fixture(scope="session")
def golden_kv():
    """The ImageNet-layout golden checkpoint: path, settings, vectors."""
    with np.load(GOLDEN / "bestformer_kv.npz") as held:
        return GOLDEN / "bestformer_kv.pth.tar", PUBLISHED_KV, dict(held)


@pytest.fixture(scope="session")
def golden_checkpoint():
    return GOLDEN / "bestformer_qk.pth.tar"


SMALL = Spec(seed=11, dim=24, heads=3, depth=2, n_steps=4, size=8, channels=3, classes=5)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory):
    """A small random checkpoint whose args say everything."""
    return save(tmp_path_factory.mktemp("checkpoint") / "small.pt", SMALL)


@pytest.fixture(scope="session")
def small_images():
    return images_of(SMALL, 5)
