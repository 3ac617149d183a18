"""From a dataset on disk to patches in memory."""
