"""Quantized weights: the choice of a precision, packing on a CPU, and a cache on disk."""
