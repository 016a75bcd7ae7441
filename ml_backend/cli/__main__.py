"""``python -m ml_backend.cli`` is ``ml-backend``."""

from ml_backend.cli.app import main

main()
