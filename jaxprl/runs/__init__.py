"""The directory of a run: records, checkpoints, signals and progress."""
