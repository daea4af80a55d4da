"""What users have: question files, folders and images, read as a stream of items."""
