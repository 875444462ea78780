"""Prices, shapes and regions as dated data files, with their loader."""
