"""Potentials in simulation engines, one module each; none of them is imported by the others.

Every engine is an extra of the installation. ASE, which is always there, has its face in
``qeqtrain/calculator.py``.
"""
