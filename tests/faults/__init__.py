"""What the tests of crashes and of storms share: a model that stops where it is told to, and a product to kill."""
