"""Planning: schedules mutated as arrays and scored in latent space."""
