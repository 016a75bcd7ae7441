"""TrainingBackend, the class that model authors subclass: fit() handles one event, train() is what a worker runs."""
