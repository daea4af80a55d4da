"""Drawn scenes with questions whose answers are known: the built-in suite."""
