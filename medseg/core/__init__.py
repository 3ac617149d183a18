"""The shared types: geometry, volumes, labels, configs, plans, scores and durable files. No torch, no file formats."""
