"""The commands: each parses, calls, prints. No torch at import."""
