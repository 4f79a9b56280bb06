"""A run for people: `report.md`, and `report.html`, one page with everything in it."""
