"""A step on a device: the forward, attention over pages, sampling."""
