"""Gradients of ensembles: one form a file, and which form is taken."""
