"""The machine: its devices and memory, its libraries, and the settings of torch."""
