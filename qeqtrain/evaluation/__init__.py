"""How good a potential is: errors, parity plots, reports, and predictions written to files.

Needs torch, numpy and, for plots, matplotlib; neither Lightning nor Hydra.
"""
