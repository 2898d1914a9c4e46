"""Instruments for a training loop that runs: its gradient noise, and checkpoints to verify from."""
