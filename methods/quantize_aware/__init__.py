"""Training through the rounding: oscillation-free quantization (OFQ) and what it is compared with."""
