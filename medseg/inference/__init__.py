"""Sliding windows, and label maps on the scan's own grid."""
