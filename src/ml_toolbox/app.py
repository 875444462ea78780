"""The one place where settings become providers, stores and features."""
