"""How the cost of an app grows: one thing is varied, and everything else stays."""
