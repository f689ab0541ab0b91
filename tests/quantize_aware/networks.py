"""Small float networks, and modules shaped like those of other libraries."""

import torch
from torch import nn

from methods.models.networks.network import build

IMAGE = {"channels": 1, "classes": 4, "image": 8}


def vit(seed=0, **sizes):
    """A vision transformer whose biases and weights are large enough to matter."""
    values = {**IMAGE, "patch": 2, "width": 12, "depth": 2, "heads": 3, **sizes}
    network = build("vit", values, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = 0.2 if parameter.dim() < 2 else 0.3
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def images(n=16, seed=1):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


class FusedAttention(nn.Module):
    """As timm has it: one projection for query, key and value."""

    def __init__(self, width, heads, dropout=0.0, norm=False):
        super().__init__()
        self.num_heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // heads) if norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads) if norm else nn.Identity()
        self.attn_drop = nn.Dropout(dropout)
        self.proj = nn.Linear(width, width)

    def forward(self, x, attn_mask=None):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (self.q_norm(q) @ self.k_norm(k).transpose(-2, -1)) * self.scale
        out = self.attn_drop(scores.softmax(-1)) @ v
        return self.proj(out.transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """As torchvision has it: torch's own multi-head attention."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        y = self.norm(x)
        y, _ = self.self_attention(y, y, y, need_weights=False)
        return x + y + self.mlp(x)


class Fused(nn.Module):
    def __init__(self, width=12, heads=3, **options):
        super().__init__()
        self.embed = nn.Linear(5, width)
        self.attention = FusedAttention(width, heads, **options)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = self.embed(x)
        return self.head((x + self.attention(x)).mean(1))


class Multihead(nn.Module):
    def __init__(self, width=12, heads=3):
        super().__init__()
        self.embed = nn.Linear(5, width)
        self.block = EncoderBlock(width, heads)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.block(self.embed(x)).mean(1))


def tokens(n=6, seed=2):
    return torch.randn(n, 7, 5, generator=torch.Generator().manual_seed(seed))


def with_biases(network, seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval()
