"""The public surface: what a model author imports."""

__version__ = "0.1.0"
