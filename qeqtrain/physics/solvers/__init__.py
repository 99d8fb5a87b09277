"""Solvers of the linear equations of charge equilibration; they know no Coulomb."""
