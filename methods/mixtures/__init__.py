"""Mixtures of softmax-gated Gaussian experts: estimators, and how fast they learn their parameters."""
