"""Size of the world model."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes that a checkpoint stores and that must match its parameters.

    Attributes:
        latent_width: Width of a slot and of the global state. 32 to 128.
        action_width: Width of an encoded step. 32 to 128.
        hardware_width: Width of the encoded hardware card. 8 to 32.
        head_width: Hidden width of the ranking head, and of the features that online
            adaptation regresses on. 64 to 256.
        message_rounds: Rounds of message passing along the compute graph. 1 to 3.
        members: Models of the ensemble. 1 to 8.
    """

    latent_width: int = 48
    action_width: int = 96
    hardware_width: int = 16
    head_width: int = 128
    message_rounds: int = 2
    members: int = 3
