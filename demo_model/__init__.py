"""How the demo model is made: drawn scenes, a vision tower, a language model, one command."""
