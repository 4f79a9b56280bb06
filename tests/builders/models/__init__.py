"""Tests of `tritium_builders.models`."""
