"""What knows nothing of the field: arguments, shapes, random streams, devices, compiling."""
