"""The report of a scaling study."""
