"""Tables of accuracy, agreement and speed."""
