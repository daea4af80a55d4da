"""Ask vision-language models about images, faster: training-free visual token pruning."""

__version__ = "0.1.0"
