"""Measurements: each module has `main(short: bool) -> dict` with ratios and medians."""
