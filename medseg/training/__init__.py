"""The loop, its schedule, checkpoints and whole-volume validation."""
