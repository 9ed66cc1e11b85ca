"""An OpenAI ChatCompletions service in front of any Truss. Never imports torch, transformers or truss_model."""

__version__ = "0.1.0"
