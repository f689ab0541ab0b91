"""Layers in template form: what holds the templates, coefficients and statistics of the members."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.grow.coefficients import POLICIES, Policy
from methods.grow.mixing import (
    Initialisation,
    assemble,
    fresh_coefficients,
    fresh_templates,
    mix,
)

NormTensors = dict[str, Tensor]
AFFINE, STATISTICS = ("weight", "bias"), ("running_mean", "running_var", "num_batches_tracked")


class Bank(nn.Module):
    """Sets of templates of one shape, which one layer or several of the same shape mix.

    shape: of a template, [o, i, ...]. counts: templates in each set.
    """

    def __init__(
        self,
        shape: Sequence[int],
        counts: Sequence[int],
        generator: torch.Generator,
        rule: Initialisation = "kaiming",
    ):
        super().__init__()
        self.sets = nn.ParameterList(
            fresh_templates(count, shape, generator, rule) for count in counts
        )


class TemplateLayer(nn.Module):
    """The weights of a convolution or linear layer as four mixtures of a bank's templates.

    rows, columns: does the layer grow in its outputs, in its inputs? sets: the set of templates that
    each member mixes. bias: outputs of one member, where the layer has a bias; else 0. One that does
    not grow in its inputs or its outputs has two members only.
    """

    def __init__(
        self,
        bank: Bank,
        *,
        rows: bool,
        columns: bool,
        bias: int,
        sets: Sequence[int],
        generator: torch.Generator,
        rule: Initialisation = "kaiming",
    ):
        super().__init__()
        self.rows, self.columns = rows, columns
        self.members = tuple(sets) if rows and columns else tuple(sets[:2])
        counts = [len(templates) for templates in bank.sets]
        drawn = fresh_coefficients(sets, counts, generator, rule)
        self.coefficients = nn.ParameterList(drawn[: len(self.members)])
        self.biases = nn.ParameterList(torch.zeros(bias) for _ in range(2) if bias)
        # Not a submodule: a bank may serve several layers and is registered once, by the mixture.
        self.__dict__["bank"] = bank

    def weight(self, member: int) -> Tensor:
        """W_i, [o, i, ...]."""
        return mix(self.coefficients[member], self.bank.sets[self.members[member]])

    def member(self, number: int) -> dict[str, Tensor]:
        """`weight` and perhaps `bias` of trained member 0 or 1."""
        found = {"weight": self.weight(number)}
        return found | {"bias": self.biases[number]} if len(self.biases) else found

    def grown(self) -> dict[str, Tensor]:
        """`weight` and perhaps `bias` of the large layer; biases of outputs that do not grow add."""
        weights = [self.weight(member) for member in range(len(self.members))]
        found = {"weight": assemble(weights, rows=self.rows, columns=self.columns)}
        if len(self.biases):
            first, second = self.biases
            found["bias"] = torch.cat([first, second]) if self.rows else first + second
        return found

    @torch.no_grad()
    def choose_coefficients(self, policy: Policy, noise: float, generator: torch.Generator) -> None:
        """Set alpha_2 and alpha_3. Raises ValueError where the policy does not suit the sets."""
        alphas = [alpha.detach().cpu() for alpha in self.coefficients]
        if len(alphas) > 2:
            chosen = POLICIES[policy](alphas, self.members, noise, generator)
            for alpha, value in zip(self.coefficients[2:], chosen[2:], strict=True):
                alpha.copy_(value)


class MemberNorm(nn.Module):
    """Batch normalisation of two members, and after growth of both together.

    like: the large network's layer, whose affine parameters and statistics are halved.
    """

    def __init__(self, like: nn.modules.batchnorm._BatchNorm):
        super().__init__()
        half = like.num_features // 2
        self.affine, self.tracked = like.affine, like.track_running_stats
        self.whole = False
        self.parts = nn.ModuleList(_NormTensors(half, self.affine, self.tracked) for _ in range(2))

    def member(self, number: int) -> NormTensors:
        """The tensors of member 0 or 1."""
        return self.parts[number].tensors()

    def grown(self) -> NormTensors:
        """The tensors of the large layer: living ones once grown, else the members' side by side."""
        if self.whole:
            return self.parts[0].tensors()
        first, second = (part.tensors() for part in self.parts)
        return {
            name: torch.cat([first[name], second[name]]) if first[name].dim() else first[name]
            for name in first
        }

    @torch.no_grad()
    def grow(self) -> None:
        """One layer of twice the width, with the members' parameters and statistics side by side."""
        values = self.grown()
        whole = _NormTensors(2 * self.parts[0].size, self.affine, self.tracked)
        for name, tensor in whole.tensors().items():
            tensor.copy_(values[name])
        device = next((t.device for t in values.values()), torch.device("cpu"))
        self.parts = nn.ModuleList([whole.to(device)])
        self.whole = True


class _NormTensors(nn.Module):
    """What a batch normalisation of `size` channels holds."""

    def __init__(self, size: int, affine: bool, tracked: bool):
        super().__init__()
        self.size = size
        if affine:
            self.weight = nn.Parameter(torch.ones(size))
            self.bias = nn.Parameter(torch.zeros(size))
        if tracked:
            self.register_buffer("running_mean", torch.zeros(size))
            self.register_buffer("running_var", torch.ones(size))
            self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    def tensors(self) -> NormTensors:
        """By the names that they have in a batch normalisation."""
        return {name: getattr(self, name) for name in (*AFFINE, *STATISTICS) if hasattr(self, name)}
