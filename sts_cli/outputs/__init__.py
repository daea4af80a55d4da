"""Where answers go: files that resume, and stdout."""
