"""The command line: parse, call one feature, print. No logic."""
