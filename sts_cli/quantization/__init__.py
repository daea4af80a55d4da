"""Weights in fewer bits: which (choice), how on a CPU (packed, on_load), kept on disk (kept)."""
