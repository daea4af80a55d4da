"""The files of a checkpoint: which there are, if they are whole, where they are from. No torch."""
