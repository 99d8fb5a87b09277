"""Layers with weights: backbones, charge models, couplings."""
