import json

import pytest
import torch

from methods.run.checkpoint import FILE, Checkpoint
from methods.run.context import Context
from methods.run.metrics import Metric, read, write
from methods.run.seeds import derive
from methods.study.errors import RetrofitError


def test_streams_differ_and_repeat():
    context = Context(seed=1, data_identity="wiki")
    assert context.seed_for("order") == Context(seed=1, data_identity="wiki").seed_for("order")
    others = {
        context.seed_for("order"),
        context.seed_for("init"),
        Context(seed=2, data_identity="wiki").seed_for("order"),
        Context(seed=1, data_identity="moby").seed_for("order"),
    }
    assert len(others) == 4
    assert 0 <= derive("order", None) < 2**63


def test_generators_are_the_stream():
    a = torch.rand(4, generator=Context(seed=3).generator("x"))
    b = torch.rand(4, generator=Context(seed=3).generator("x"))
    assert torch.equal(a, b)
    assert Context(seed=3).numpy("x").random() == Context(seed=3).numpy("x").random()


def test_checkpoint_returns_bits_state_and_history(tmp_path):
    history = [{"step": 1}]
    saved = Checkpoint(tmp_path / "c", history)
    tensors = {"a": torch.randn(3, dtype=torch.float64), "b": torch.arange(4)}
    saved.save(tensors, {"step": 1, "rate": 0.1})
    restored_history = [{"step": 0}]
    found = Checkpoint(tmp_path / "c", restored_history).load()
    assert found["state"] == {"step": 1, "rate": 0.1}
    assert all(torch.equal(found["tensors"][name], tensors[name]) for name in tensors)
    assert restored_history == [{"step": 1}]
    saved.clear()
    assert Checkpoint(tmp_path / "c").load() is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "nonsense", "empty"])
def test_a_damaged_checkpoint_is_named_and_not_used(tmp_path, capsys, damage):
    Checkpoint(tmp_path).save({"a": torch.arange(50)}, {"step": 1})
    path = tmp_path / FILE
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-9] ^= 1
    nonsense = b"\x10\x00\x00\x00\x00\x00\x00\x00not json at all"
    bodies = {"cut": whole[:-1], "flipped": bytes(flipped), "nonsense": nonsense, "empty": b""}
    path.write_bytes(bodies[damage])
    history = [{"step": 0}]
    assert Checkpoint(tmp_path, history).load() is None
    assert history == [{"step": 0}]
    assert f"{path} is damaged" in capsys.readouterr().err
    assert (tmp_path / f"damaged-{FILE}").read_bytes() == bodies[damage]
    assert Checkpoint(tmp_path).load() is None


def test_metrics_round_trip_and_refuse_nan(tmp_path):
    metrics = {"perplexity/a": Metric(2.5, 0.1, 3, "", False, [1.0, 2.0, 3.0], ["x", "y", "z"])}
    write(tmp_path / "m.json", metrics)
    assert read(tmp_path / "m.json") == metrics
    assert list(json.loads((tmp_path / "m.json").read_text())) == ["perplexity/a"]
    with pytest.raises(RetrofitError, match="'loss' is not a number"):
        write(tmp_path / "m.json", {"loss": Metric(float("nan"))})
    with pytest.raises(RetrofitError, match="2 values but 1 labels"):
        Metric(1.0, values=[1.0, 2.0], labels=["a"])
