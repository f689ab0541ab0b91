"""Architecture search in one entangled network: TangleNAS, its samplers and its controls."""
