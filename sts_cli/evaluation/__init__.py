"""What proves that answers stayed right: the built-in suite and its measures."""
