"""Progress and results for people, on standard error."""
