"""Functions without weights; they need torch alone."""
