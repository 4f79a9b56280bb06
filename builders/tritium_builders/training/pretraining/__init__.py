"""Pretraining: encoders adapted to a user's texts and pictures, without labels.

run.py (recipe in, encoder folder out) -> objectives.py (what both share),
masked_language.py, contrastive.py -> loop.py (steps and early stopping) -> folders.py
(what is written, and what training must then not hold out)
"""
