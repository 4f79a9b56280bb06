"""Tests of `tritium_builders.training`."""
