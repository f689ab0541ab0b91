"""FLOPs of training against the published helper and step by step; memory counted by hand."""

import pytest
import torch
from torch import nn

from methods.prune.masks import cubic_count
from methods.prune.training_cost import (
    activation_bytes,
    published_per_step,
    sparse_training_bytes,
    steps_within,
    training_bytes,
    training_flops,
)
from tests.prune.golden import DST


def test_a_rigl_step_costs_what_the_published_helper_says():
    assert published_per_step(1, 2, 100) == pytest.approx(float(DST["flops_rigl_per_step"][0]))


def test_only_moves_of_rigl_cost_more():
    plain = {"every": 10, "begin": 0.0, "end": 0.75, "sparse": 2.0, "dense": 20.0}
    assert training_flops(100, "static", **plain) == training_flops(100, "set", **plain) == 600
    assert training_flops(100, "rigl", **plain) == 600 + 7 * 18  # after steps 10, 20, …, 70


@pytest.mark.parametrize(("begin", "end"), [(0.0, 0.75), (0.2, 0.6), (0.5, 0.5), (0.0, 1.0)])
def test_gradual_pruning_costs_what_its_masks_leave(begin, end):
    """Step by step with the counts of a layer of 10^9 weights that are the whole network."""
    steps, every, whole, goal = 53, 4, 10**9, 10**8
    first, last = int(begin * steps), int(end * steps)
    total, kept = 0.0, whole
    for step in range(1, steps + 1):
        total += 3 * kept
        if step == max(last, 1) or (first < step < last and step % every == 0):
            kept = cubic_count(step, first, last, whole, goal)
    found = training_flops(steps, "gradual", every, begin, end, sparse=goal, dense=whole)
    assert found == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("update", ["static", "set", "rigl", "gradual"])
def test_the_longest_training_within_a_budget(update):
    schedule = {
        "update": update,
        "every": 7,
        "begin": 0.1,
        "end": 0.75,
        "sparse": 1.0,
        "dense": 9.0,
    }
    steps = steps_within(3000, **schedule)
    assert training_flops(steps, **schedule) <= 3000 < training_flops(steps + 1, **schedule)


def test_memory_by_hand():
    model = nn.Sequential(nn.Linear(10, 20, bias=False), nn.ReLU(), nn.Linear(20, 5, bias=False))
    model[0].register_buffer("weight_mask", torch.ones(20, 10, dtype=torch.bool))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.randn(3, 10)).sum().backward()
    optimizer.step()
    assert training_bytes(model, optimizer) == 3 * 4 * 300 + 200
    assert sparse_training_bytes(100, 40, 1) == 100 * 12 + 40 * 4
    # The input, and what ReLU gives (which serves its own gradient and the next layer's).
    assert activation_bytes(model, torch.randn(3, 10), 3) == 4 * (10 + 20)


def test_counting_activations_leaves_running_statistics_alone():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    before = model[1].running_mean.clone()
    activation_bytes(model, torch.randn(5, 4), 5)
    assert torch.equal(model[1].running_mean, before)
