"""Labelled text + image pairs to train on and to judge with."""

from tritium_builders.data.dataset import Dataset, Item
from tritium_builders.data.openmoji import load_openmoji

__all__ = ["Dataset", "Item", "load_openmoji"]
