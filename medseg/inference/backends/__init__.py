"""Patches in, logits out."""
