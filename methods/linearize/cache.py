"""What a linearised layer remembers: a ring of the last keys, the first keys, and its states.

Constant memory, whatever the context: the ring holds `window` entries, and the entry of the token
that leaves the window is overwritten. transformers' `DynamicCache` builds these layers by
itself, because a configuration names them in `layer_types`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from methods.linearize.configuration import LINEAR
from methods.linearize.window import Keys, Sinks
from methods.study.errors import RetrofitError


class WindowAndState(CacheLayerMixin):
    """The cache of one layer.

    keys, values: ring `[B, Hkv, window, d]`; token t stands in slot t mod window. valid: `[B,
    window]`, False for padding. seen: tokens so far, padding included. padded: whether there was any
    padding. states: tensors of the recurrence by name, `[B, H, ·, ·]` float32. sink_*: the first
    tokens of every sequence, with their position on the axis of `seen`.
    """

    _layer_type = LINEAR
    is_sliding = True

    def __init__(self, **_: object):
        super().__init__()
        self._clear()

    def _clear(self) -> None:
        self.keys = self.values = self.valid = None
        self.sink_keys = self.sink_values = self.sink_index = None
        self.real: Tensor | None = None
        self.states: dict[str, Tensor] = {}
        self.seen, self.window, self.padded = 0, 0, False
        self.is_initialized = False

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room for batch, heads and widths of `key_states` `[B, Hkv, T, d]`."""
        batch, heads, _, width = key_states.shape
        self.dtype, self.device = key_states.dtype, key_states.device
        shape = (batch, heads, self.window, width)
        self.keys = key_states.new_zeros(shape)
        self.values = value_states.new_zeros(*shape[:3], value_states.shape[-1])
        self.valid = torch.zeros(batch, self.window, dtype=torch.bool, device=self.device)
        self.real = torch.zeros(batch, dtype=torch.int64, device=self.device)
        self.is_initialized = True

    def past(self, most: int) -> Keys | None:
        """The last `most` entries in the order of time; None before the first token."""
        count = min(self.seen, most)
        if not count:
            return None
        if not self.padded and count == self.seen:
            return Keys(self.keys[:, :, :count], self.values[:, :, :count])
        at = torch.arange(self.seen - count, self.seen, device=self.device) % self.window
        valid = self.valid[:, at] if self.padded else None
        return Keys(self.keys[:, :, at], self.values[:, :, at], valid)

    def append(self, new: Keys, window: int) -> None:
        """Take in T new entries. Raises RetrofitError when the window is another than before."""
        self._ready(new, window)
        length = new.k.shape[2]
        if length == 1:
            slot = self.seen % window
            self.keys[:, :, slot], self.values[:, :, slot] = new.k[:, :, 0], new.v[:, :, 0]
            self.valid[:, slot] = True if new.valid is None else new.valid[:, 0]
        else:
            kept = min(length, window)
            at = torch.arange(self.seen + length - kept, self.seen + length, device=self.device)
            at = at % window
            self.keys[:, :, at], self.values[:, :, at] = new.k[:, :, -kept:], new.v[:, :, -kept:]
            self.valid[:, at] = True if new.valid is None else new.valid[:, -kept:]
        if new.valid is not None and not self.padded:
            self.padded = not bool(new.valid.all())
        self.seen += length

    def _ready(self, new: Keys, window: int) -> None:
        if not self.is_initialized:
            self.window = window
            self.lazy_initialization(new.k, new.v)
        if window != self.window:
            raise RetrofitError(f"the cache has a window of {self.window}, the model of {window}")

    def note_sinks(self, new: Keys, window: int, sinks: int) -> None:
        """Keep those of the new entries that are among the first `sinks`; before `append`."""
        self._ready(new, window)
        batch, length = new.k.shape[0], new.k.shape[2]
        if self.sink_keys is None:
            shape = (batch, new.k.shape[1], sinks)
            self.sink_keys = new.k.new_zeros(*shape, new.k.shape[-1])
            self.sink_values = new.v.new_zeros(*shape, new.v.shape[-1])
            self.sink_index = torch.full((batch, sinks), -1, device=self.device)
        if bool((self.real >= sinks).all()):
            return
        valid = new.valid
        if valid is None:
            valid = torch.ones(batch, length, dtype=torch.bool, device=self.device)
        rank = torch.where(valid, self.real[:, None] + valid.cumsum(1) - 1, -1)
        for n in range(sinks):
            here = rank == n
            rows = here.any(1)
            token = here.int().argmax(1)
            row = torch.arange(batch, device=self.device)
            self.sink_keys[rows, :, n] = new.k[row, :, token][rows]
            self.sink_values[rows, :, n] = new.v[row, :, token][rows]
            self.sink_index[rows, n] = (self.seen + token)[rows]
        self.real += valid.sum(1)

    def sinks(self, past: int) -> Sinks | None:
        """The first tokens; positions count from the first of the `past` keys in view."""
        if self.sink_keys is None:
            return None
        keys = Keys(self.sink_keys, self.sink_values, self.sink_index >= 0)
        return Sinks(keys, self.sink_index - (self.seen - past))

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object):
        """Not how these layers are used: they need to know what is padding."""
        raise RetrofitError("a linearised layer keeps its own past; use past() and append()")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(keys, offset) as if no key had been forgotten: masks here are only for padding."""
        return self.seen + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens so far."""
        return self.seen

    def get_max_length(self) -> int:
        """-1: there is no limit."""
        return -1

    def reset(self) -> None:
        """Forget everything."""
        self._clear()

    def crop(self, tokens_to_remove: int) -> None:
        """Refused: a recurrence cannot be taken back."""
        raise RetrofitError(
            "a linearised model cannot take tokens back, so assisted decoding does not work with it"
        )

    def _map(self, change) -> None:
        for name in ("keys", "values", "valid", "real", "sink_keys", "sink_values", "sink_index"):
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(self, name, change(tensor))
        self.states = {name: change(state) for name, state in self.states.items()}

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Sequences in the order of `beam_idx` (beam search)."""
        self._map(lambda t: t.index_select(0, beam_idx.to(t.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each sequence `repeats` times."""
        self._map(lambda t: t.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only these sequences."""
        self._map(lambda t: t[indices, ...])
