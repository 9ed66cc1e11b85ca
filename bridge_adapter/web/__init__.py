"""The page that talks to a model from a browser: static files that use the public API alone."""

from bridge_adapter.web.router import router

__all__ = ["router"]
