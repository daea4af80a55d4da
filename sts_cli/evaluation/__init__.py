"""Evidence that answers stayed right: measures and tables."""
