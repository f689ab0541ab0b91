"""The oscillation metric and iterative freezing against the authors' arrays and by hand."""

import torch

from methods.quantize_aware.oscillation import Oscillation, Tracker, dampening
from tests.quantize_aware.golden import golden

GOLDEN = golden("oscillation")


def test_frequency_and_count_are_the_authors():
    sequence = GOLDEN["seq"]
    followed = Oscillation(sequence[0])
    total = 0.0
    for step, codes in enumerate(sequence):
        followed.update(codes)
        torch.testing.assert_close(followed.frequency, GOLDEN["ema"][step], atol=1e-6, rtol=0)
        assert torch.equal(followed.count.float(), GOLDEN["total"][step])
        total += float(GOLDEN["osc_count"][step])
        assert float(followed.count.sum()) == total
    assert torch.equal(followed.direction.float(), GOLDEN["prev_switch_dir"])
    assert 0 <= float(followed.frequency.min()) <= float(followed.frequency.max()) <= 1


def test_iterative_freezing_is_the_authors():
    sequence = GOLDEN["seq"]
    followed = Oscillation(sequence[0], momentum=0.1, freezing=True)
    for step, codes in enumerate(sequence):
        held = followed.update(codes, threshold=0.25)
        assert torch.equal(held.float(), GOLDEN["frz_out"][step])
        assert torch.equal(followed.frozen, GOLDEN["frz_mask"][step])
        frozen = followed.frozen
        assert torch.equal(followed.frozen_code.float()[frozen], GOLDEN["frz_xint"][step][frozen])
    assert not GOLDEN["frz_mask"][2].any()  # at first none is
    assert followed.frozen.any()


def test_by_hand():
    followed = Oscillation(torch.tensor([[0, 0, 0, 0]]), momentum=0.5)
    seen = []
    for codes in ([0, 0, 0, 0], [1, 1, 1, 2], [0, 1, 2, 0], [1, 1, 3, 1]):
        followed.update(torch.tensor([codes]))
        seen.append(followed.count.clone().tolist()[0])
    # There and back; once and never again; on and on; a jump of two counts once.
    assert seen == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1], [2, 0, 0, 2]]
    assert followed.frequency.tolist() == [[0.75, 0.0, 0.0, 0.75]]
    assert followed.oscillating.tolist() == [[True, False, False, True]]


def test_the_state_is_in_buffers_and_continues_after_a_kill():
    sequence = GOLDEN["seq"]

    def follow(tracker, part):
        for codes in part:
            tracker["a/weight"].update(codes, threshold=0.02)

    whole = Tracker({"a/weight": Oscillation(sequence[0], freezing=True)})
    follow(whole, sequence)
    before = Tracker({"a/weight": Oscillation(sequence[0], freezing=True)})
    follow(before, sequence[:17])
    tensors, state = before.state()
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    after = Tracker({"a/weight": Oscillation(torch.zeros_like(sequence[0]), freezing=True)})
    after.restore_state(saved, state)
    follow(after, sequence[17:])
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name]), name


def test_dampening_pulls_towards_the_level_but_not_beyond_the_ends():
    w = torch.tensor([[0.1, 0.4, 3.0]], requires_grad=True)
    levels = torch.tensor([[0.0, 0.5, 1.0]])
    loss = dampening(w, levels, torch.tensor(-2.0), torch.tensor(1.0))
    torch.testing.assert_close(loss, torch.tensor(0.01 + 0.01))
    loss.backward()
    torch.testing.assert_close(w.grad, torch.tensor([[0.2, -0.2, 0.0]]))
