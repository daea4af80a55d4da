"""Measurements: each file is a command that says what it measures."""
