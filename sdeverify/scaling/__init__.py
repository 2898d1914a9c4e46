"""Batch and learning rate: rules, how far they hold, and the experiment."""
