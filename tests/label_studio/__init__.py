"""A real Label Studio for tests and benchmarks: the server (`server`) and a person who works with it (`driver`)."""
