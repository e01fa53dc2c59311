"""The world model in Flax."""
