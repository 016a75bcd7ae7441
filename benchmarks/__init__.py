"""Measurements: this product beside what people use today and beside the physical limit, alternating in one run."""
