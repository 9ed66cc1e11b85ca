"""The HTTP service: routes, middleware, processes."""
