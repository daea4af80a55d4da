"""Destinations of answers: files that can be continued, and standard output."""
