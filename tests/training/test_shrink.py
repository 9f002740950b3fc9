"""Signs instead of latent weights change no logit."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from training import checkpoint, models, shrink  # noqa: E402
from training.models.bestformer import BESTformer, BESTformerConfig  # noqa: E402
from training.models.spikingformer import Spikingformer, SpikingformerConfig  # noqa: E402


def saved(path, model):
    args = model.config.to_args() | {"mean": [0.5], "std": [0.5]}
    checkpoint.save(path, model.state_dict(), args, epoch=0, metric=0.5, arch="x")
    return path


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_the_small_file_is_the_same_network(tmp_path, variant, capsys):
    torch.manual_seed(0)
    model = BESTformer(BESTformerConfig(2, 32, 2, 2, 8, 1, 3, variant=variant))
    model.init_neuron_norms(1.5, 0.5)
    old, new = saved(tmp_path / "a.pt", model), tmp_path / "b.pt"
    assert shrink.main([str(old), str(new)]) == 0
    assert "MB" in capsys.readouterr().out
    assert new.stat().st_size < old.stat().st_size / 4
    x = torch.randn(4, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(models.load(new)(x), models.load(old)(x))
    assert shrink.main([str(new), str(tmp_path / "c.pt")]) == 0
    assert (tmp_path / "c.pt").read_bytes() == new.read_bytes()


def test_what_cannot_be_shrunk(tmp_path, capsys):
    model = BESTformer(BESTformerConfig(1, 16, 2, 2, 8, 1, 3))
    with torch.no_grad():
        row = model.block[0].attn.q_conv.weight[0]
        row.copy_(torch.arange(16.0).view(16, 1) - 8)
        row[0] = row[1:].mean()  # exactly the mean of its row
    out = str(tmp_path / "b.pt")
    assert shrink.main([str(saved(tmp_path / "a.pt", model)), out]) == 7
    assert "block.0.attn.q_conv.weight has a weight without a sign" in capsys.readouterr().err
    real = Spikingformer(SpikingformerConfig(1, 16, 2, 2, 8, 1, 3))
    assert shrink.main([str(saved(tmp_path / "s.pt", real)), out]) == 4
    assert shrink.main([str(tmp_path / "none.pt"), out]) == 7
    paper = saved(tmp_path / "p.pt", BESTformer(BESTformerConfig(1, 16, 2, 2, 8, 1, 3)))
    assert shrink.main([str(paper), str(tmp_path / "no" / "b.pt")]) == 8
