"""The keys of a profile's file, in the order in which they are written."""

from __future__ import annotations

SHORT = ("structure", "semantics")  # one cut before the first layer, one between layers
SETTINGS = ("attention", "quantize", "backend", "batch_size", "max_new_tokens")
KEYS = ("about", *SHORT, "cuts", "encoder", "guide", *SETTINGS, "escalate")
RULES = ("energy", "left")  # budgets that follow the image, or the cut before
BOUNDS = ("at_most", "at_least")
ESCALATE = ("below", "to", "measure", "at_most")
