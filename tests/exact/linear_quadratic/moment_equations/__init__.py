"""Moments of linear SDEs and chains on a quadratic loss: a reference written independently."""
