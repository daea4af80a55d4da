"""The built-in suite: drawn scenes, and questions with known answers."""
