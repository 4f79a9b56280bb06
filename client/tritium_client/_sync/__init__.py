"""The sync client; made from `_async` by tools/generate_sync.py."""
