"""What a refresh costs, against what a user would otherwise run. `python -m benchmarks`."""
