"""The shipped models: each meets the public contract of ml_backend like anybody's model would."""
