"""Answers on more than one machine: Ray Data hands blocks of rows to actors that hold a model."""
