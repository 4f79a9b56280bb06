"""Tests, mirroring the packages.

A package, so that no other distribution's `tests` is found first.
"""
