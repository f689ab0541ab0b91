"""Networks that gain something after training: adapters and prompts."""
