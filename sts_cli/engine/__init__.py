"""One batch of prompts to token ids: embed; cut and run, span by span; decode."""
