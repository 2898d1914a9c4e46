"""Studies: from a file to jobs, a store, results and verdicts."""
