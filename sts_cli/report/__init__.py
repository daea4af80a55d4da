"""What a person sees, on standard error."""
