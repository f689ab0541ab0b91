"""Clipping against the published loop, written out."""

import torch

from methods.quantize.clip import clamp_groups, search_clip
from methods.quantize.grid import Grid, pseudo_quantize
from methods.quantize.output_error import group_gram

GENERATOR = torch.Generator().manual_seed(8)
WEIGHT = torch.randn(10, 48, generator=GENERATOR)
WEIGHT[:, ::12] *= 3
X = torch.randn(64, 48, generator=GENERATOR) * torch.linspace(0.2, 3, 48)


def published_clip(weight, x, grid, steps, max_shrink):
    """Best limit per row and group by the outputs of that group alone, as AWQ's auto_clip."""
    g = 48 if grid.group_size == -1 else grid.group_size
    limits = torch.empty(len(weight), 48 // g)
    for row in range(len(weight)):
        for group in range(48 // g):
            columns = slice(group * g, (group + 1) * g)
            w, inputs = weight[row, columns], x[:, columns]
            lowest = None
            for i in range(int(max_shrink * steps)):
                limit = w.abs().max() * (1 - i / steps)
                clipped = w.clamp(-limit, limit)[None]
                q = pseudo_quantize(clipped, Grid(grid.bits, -1, grid.symmetric, grid.in_range))[0]
                error = (inputs @ q - inputs @ w).square().mean()
                if lowest is None or error < lowest:
                    lowest, limits[row, group] = error, limit
    return limits


def test_limits_are_the_published_ones():
    for grid in (Grid(3, 16, in_range=False), Grid(2, 16), Grid(4, -1), Grid(3, 24, True)):
        expected = published_clip(WEIGHT, X, grid, 20, 0.5)
        found = search_clip(WEIGHT, group_gram(X, grid.group_size), grid, 20, 0.5)
        same = torch.isclose(found.limit, expected)
        # Two limits may round to errors that are equal up to summation order.
        assert same.float().mean() > 0.98
        assert found.share < 1
        assert found.error < found.error_before


def test_weight_is_clamped_group_by_group():
    limit = torch.tensor([[0.5, 1.0, 2.0]]).expand(10, 3)
    clamped = clamp_groups(WEIGHT, limit).view(10, 3, 16)
    for group, bound in enumerate((0.5, 1.0, 2.0)):
        part = WEIGHT.view(10, 3, 16)[:, group]
        assert torch.equal(clamped[:, group], part.clamp(-bound, bound))


def test_group_of_zeros_is_left_alone():
    weight = WEIGHT.clone()
    weight[4, :16] = 0
    found = search_clip(weight, group_gram(X, 16), Grid(3, 16))
    assert found.limit[4, 0] == 0
    assert torch.isfinite(found.limit).all()
    assert 0 < found.share <= 1
