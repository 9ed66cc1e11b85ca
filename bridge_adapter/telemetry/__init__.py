"""What is recorded of each request: access log, metrics, traces."""
