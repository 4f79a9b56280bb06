"""NVIDIA's load generator: where it comes from, what it is given, what it says."""
