from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.measure.params import Recall
from methods.measure.recall import probes, score


class Copies(nn.Module):
    """Predicts what followed the first occurrence of a token within `reach` tokens."""

    def __init__(self, reach: int):
        super().__init__()
        self.reach = reach

    def forward(self, input_ids, use_cache, logits_to_keep):
        rows, length = input_ids.shape
        logits = torch.zeros(rows, length, 500)
        for row in range(rows):
            for t in range(length):
                for s in range(max(0, t - self.reach), t):
                    if input_ids[row, s] == input_ids[row, t]:
                        logits[row, t, input_ids[row, s + 1]] = 50.0
                        break
        return type("Out", (), {"logits": logits[:, -logits_to_keep:]})


def example(gap):
    g = torch.Generator().manual_seed(0)
    filler = torch.arange(384).view(6, 64)
    return probes(filler, gap, 12, 4, g)


def test_a_probe_is_a_passage_twice_around_running_text():
    tokens = example(40)
    assert tokens.shape == (4, 64)
    assert torch.equal(tokens[:, :12], tokens[:, -12:])


def test_who_can_look_far_enough_recalls_and_who_cannot_does_not():
    tokens = example(40)
    hits, losses = score(Copies(reach=100), tokens, 8)
    short, worse = score(Copies(reach=20), tokens, 8)
    assert hits.mean() > 0.6
    assert short.mean() < 0.3
    assert losses.mean() < worse.mean()


@pytest.mark.parametrize("wrong", [{"cue": 32}, {"gaps": [0]}, {"gaps": [8, 8]}])
def test_probes_that_ask_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=r"cue 32|different positive"):
        Recall(**wrong)
