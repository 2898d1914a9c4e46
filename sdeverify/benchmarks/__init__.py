"""What the package's work costs, measured on the machine at hand, in ratios."""
