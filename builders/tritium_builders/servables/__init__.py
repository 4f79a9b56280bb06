"""The code that runs inside Triton's Python backend.

Each file is copied into a release as `model.py` and runs there alone: it may import the standard
library, numpy and one library more. Training and the parity gate import the same files.
"""
