"""A checkpoint into memory: device, precision, processor, weights that are sound."""
