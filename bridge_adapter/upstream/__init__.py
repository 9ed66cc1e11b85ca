"""Truss servers: which one, the call, its errors, and the dialects they answer in."""
