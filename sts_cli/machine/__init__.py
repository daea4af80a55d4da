"""The machine: its devices and memory, the versions of its libraries, how torch is set up."""
