"""Where answers go: files that are their own journals, standard output, sidecars."""
