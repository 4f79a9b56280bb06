# Generated from tritium_client/_async by tools/generate_sync.py: change it there.
"""The client's source: written with async, and turned into `_sync` by tools/generate_sync.py."""
