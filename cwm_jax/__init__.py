"""A compiler world model: rank tensor-program schedules by rolling them out in latent space."""

__version__ = "0.1.0"
