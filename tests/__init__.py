"""The tests read as the product's specification."""
