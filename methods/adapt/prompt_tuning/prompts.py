"""Modules that hold a prompt's parameters and give (P*, U), which do not depend on the input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from methods.adapt.prompt_tuning import decomposition, fusion, spaces

if TYPE_CHECKING:
    from methods.adapt.prompt_tuning.params import Decomposed

PARTS = {
    "prompt_embeddings": "decomposition",
    "lora_embedding_A": "decomposition",
    "lora_embedding_B": "decomposition",
    "fusion_query": "fusion",
    "fusion_key": "fusion",
    "space_down": "projection",
    "space_up": "projection",
    "gate_weight": "gate",
    "gate_bias": "gate",
}
"""What each parameter belongs to."""


class DecomposedPrompt(nn.Module):
    """A short prompt, a low-rank update and, for EPT, fusion and spaces.

    initial: P [m, d]. settings: what `Dept` or `Ept` say. rank: of the update; 0 leaves it out, and then this is
    plain prompt tuning. Names of the prompt and of A and B are those of peft and of DePT's code.
    """

    def __init__(
        self, initial: Tensor, settings: Decomposed, rank: int, generator: torch.Generator
    ):
        super().__init__()
        width = initial.shape[1]
        self.settings, self.rank = settings, rank
        self.prompt_embeddings = nn.Parameter(initial.clone())
        if rank:
            bound = 1 / math.sqrt(rank)  # kaiming_uniform_(a=√5) of an [s, r] matrix
            start = torch.rand(settings.length, rank, generator=generator)
            self.lora_embedding_A = nn.Parameter((2 * start - 1) * bound)
            self.lora_embedding_B = nn.Parameter(torch.zeros(rank, width))
        if rank and settings.fusion != "none" and settings.fusion_width:
            shape = (width, settings.fusion_width)
            for name in ("fusion_query", "fusion_key"):
                drawn = torch.randn(shape, generator=generator) / math.sqrt(width)
                self.register_parameter(name, nn.Parameter(drawn))
        if settings.spaces:
            shape = (settings.spaces, width, settings.bottleneck)
            drawn = torch.randn(shape, generator=generator) / math.sqrt(width)
            self.space_down = nn.Parameter(drawn)
            self.space_up = nn.Parameter(torch.zeros(shape).transpose(1, 2).contiguous())
            self.gate_bias = nn.Parameter(torch.zeros(settings.spaces))
            if settings.gate != "static":
                self.gate_weight = nn.Parameter(torch.zeros(settings.spaces, width))

    @property
    def added(self) -> Tensor | None:
        """U [s, d]; None without a low-rank update."""
        if not self.rank:
            return None
        scale = decomposition.scaling(self.settings.alpha, self.rank)
        return decomposition.update(self.lora_embedding_A, self.lora_embedding_B, scale)

    def gates(self, prompt: Tensor) -> Tensor:
        """The weights of the spaces, [1 or m, K]."""
        weight = getattr(self, "gate_weight", None)
        chosen = self.settings
        return spaces.gates(prompt, weight, self.gate_bias, chosen.temperature, chosen.gate)

    def fused(self) -> Tensor:
        """P_f [m, d]."""
        added, chosen = self.added, self.settings
        if added is None:
            return self.prompt_embeddings
        query, key = (getattr(self, name, None) for name in ("fusion_query", "fusion_key"))
        return fusion.fused(
            self.prompt_embeddings, added, chosen.fusion, chosen.fusion_scale, query, key
        )

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """(P* [m, d], U [s, d] or None)."""
        prompt, chosen = self.fused(), self.settings
        if chosen.spaces:
            views = spaces.projected(prompt, self.space_down, self.space_up, chosen.activation)
            prompt = spaces.combined(views, self.gates(prompt))
        return prompt, self.added

    def counts(self) -> dict[str, int]:
        """Trained numbers by part: decomposition, fusion, projection, gate."""
        found = dict.fromkeys(PARTS.values(), 0)
        for name, parameter in self.named_parameters():
            found[PARTS[name]] += parameter.numel()
        return found

    @torch.no_grad()
    def fold(self) -> FoldedPrompt:
        """The same prompt with P* and U computed once; every later step costs what DePT's does."""
        prompt, added = self()
        return FoldedPrompt(prompt.clone(), None if added is None else added.clone())


class FoldedPrompt(nn.Module):
    """(P*, U) as constants."""

    def __init__(self, prompt: Tensor, added: Tensor | None):
        super().__init__()
        self.register_buffer("prompt", prompt)
        self.register_buffer("update", added)

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """As `DecomposedPrompt`."""
        return self.prompt, self.update


class Prompted(nn.Module):
    """A frozen model that sees [P* ; E + U] instead of its input embeddings.

    Called as the model is, with `input_ids` [b, s'] and `attention_mask`; positions of the prompt come first in the
    output. An encoder with a decoder gets the prompt in its encoder only.
    """

    def __init__(self, model: nn.Module, prompt: DecomposedPrompt | FoldedPrompt):
        super().__init__()
        self.base_model, self.prompt = model, prompt

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **others: Any) -> Any:
        """What the model returns for the reconstructed input."""
        embedded = self.base_model.get_input_embeddings()(input_ids)
        prompt, added = self.prompt()
        mask = nn.functional.pad(attention_mask, (len(prompt), 0), value=1)
        whole = decomposition.reconstructed(prompt, embedded, added)
        return self.base_model(inputs_embeds=whole, attention_mask=mask, **others)


def initial_prompt(
    embedding: nn.Embedding,
    tokens: int,
    how: str,
    ids: list[int],
    generator: torch.Generator,
) -> Tensor:
    """P at the start, [m, d] float32: the embeddings of a text's tokens repeated to length, those of random words of
    the vocabulary, or standard normal numbers.
    """
    width = embedding.weight.shape[1]
    if how == "normal":
        return torch.randn(tokens, width, generator=generator)
    if how == "text":
        repeated = (ids * (tokens // len(ids) + 1))[:tokens]
        chosen = torch.tensor(repeated)
    else:
        chosen = torch.randint(embedding.weight.shape[0], (tokens,), generator=generator)
    return embedding.weight.detach()[chosen.to(embedding.weight.device)].float().cpu().clone()


def load_prompt(
    settings: Decomposed, tensors: Mapping[str, Tensor], generator: torch.Generator | None = None
) -> DecomposedPrompt:
    """The module whose parameters are `tensors`, as they were saved."""
    rank = tensors["lora_embedding_A"].shape[1] if "lora_embedding_A" in tensors else 0
    generator = generator or torch.Generator()
    prompt = DecomposedPrompt(tensors["prompt_embeddings"], settings, rank, generator)
    prompt.load_state_dict(dict(tensors))
    return prompt
