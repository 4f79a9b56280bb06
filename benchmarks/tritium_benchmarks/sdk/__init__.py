"""What the SDK costs, and what its callers see when something fails."""
