"""What breaks while a run goes on, done on purpose: `python -m tests.faults --help`."""
