"""The client's source: written with async, and turned into `_sync` by tools/generate_sync.py."""
