"""Potentials put together from their parts, and the files they are kept in."""
