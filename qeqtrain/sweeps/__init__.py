"""Sweeps: many runs of one recipe that differ in some values, and which of them was best.

A sweep file is W&B's own. With an account it is registered there and worked off by agents on
any number of machines; without one the same file runs here, trial by trial in processes of
their own, and what is known of them is in the sweep's folder.
"""
