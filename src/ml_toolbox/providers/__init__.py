"""The platforms, one folder each with the same file names in each. Loaded by entry point, never imported by features."""
