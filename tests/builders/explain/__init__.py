"""Tests of `tritium_builders.explain`."""
