"""Programs, steps and hardware as padded arrays."""
