"""Tests of `tritium_builders.data`."""
