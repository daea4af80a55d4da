"""Question files, folders and images, read as a stream: whatever is wrong stays with its row."""
