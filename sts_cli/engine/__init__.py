"""From prompts to answers: embed, prune, prefill, prune, prefill, decode."""
