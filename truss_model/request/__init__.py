"""A predict body: its fields, checked."""
