"""Question files, folders and images, read as a stream of items."""
