"""Prompt tuning of frozen text models (EPT, arXiv 2405.11464; DePT, arXiv 2309.05173) and its controls."""
