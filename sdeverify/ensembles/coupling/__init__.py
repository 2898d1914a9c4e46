"""Weak errors from an optimizer and its SDE on the same Brownian path."""
