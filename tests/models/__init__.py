"""Small models that tests run as a user's own."""
