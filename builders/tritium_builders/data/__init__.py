"""Labelled text + image pairs to train on and to judge with."""

from tritium_builders.data.dataset import Dataset, ImageFile, Item
from tritium_builders.data.openclipart import load_openclipart
from tritium_builders.data.openmoji import load_openmoji

__all__ = ["Dataset", "ImageFile", "Item", "load_openclipart", "load_openmoji"]
