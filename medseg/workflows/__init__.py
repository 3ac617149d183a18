"""One straight function for each verb."""
