"""Ensembles of bundles: several trained models become one bundle, and so one app.

    tritium ensemble bundles/a bundles/b --out bundles/ab

parts.py (may they be one, and which encoders do they share) -> held_in.py (items to choose
weights by) -> weighting.py (the weights) -> merge.py (the bundle) -> command.py
"""
