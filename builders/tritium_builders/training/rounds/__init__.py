"""The next round: a bundle is trained on with new data, and compared on what was held out.

    tritium train recipe.toml --from bundles/a --data new.jsonl --out bundles/b

additions.py (new items, and the side that each is on) -> start.py (what the bundle's head brings)
-> run.py (train, compare, write) -> record.py (what is said of it, round.json)
"""
