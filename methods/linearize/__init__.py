"""From softmax attention to gated linear recurrences with a sliding window (Liger and its kin)."""
