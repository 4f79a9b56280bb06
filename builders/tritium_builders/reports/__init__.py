"""Pages for people: the report of a training, data cards, explanations.

    report.json, data_card.json, samples -> sections.py (what is said: single_label.py, tasks.py)
                                         -> plots.py (drawings) and templates/ -> one HTML file

A page needs nothing else: no network, no scripts. It is the same bytes for the same figures,
because a bundle's page is part of its hash.
"""
