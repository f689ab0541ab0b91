"""What is measured on a model: perplexity, size, cost, latency, and statistics over seeds."""
