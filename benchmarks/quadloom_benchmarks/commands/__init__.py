"""Subcommand of `quadloom` that runs benchmarks."""
