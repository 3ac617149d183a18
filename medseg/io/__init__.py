"""Files to and from the core types. Knows nothing of learning."""
