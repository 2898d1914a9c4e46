"""The datasets that all results are: their schema, axes, moments and identity."""
