"""Training: loss, optimisation, the Lightning module and the run around it.

The loss, the metrics and the optimisation need torch alone; Lightning is imported where the
loop is, so that evaluation can use the rest without it.
"""
