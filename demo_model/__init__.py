"""Training of the demo model: drawn scenes, a vision tower, a language model, one command."""
