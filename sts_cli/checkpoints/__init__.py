"""The files of a checkpoint: where they are, and whether they are complete. No torch."""
