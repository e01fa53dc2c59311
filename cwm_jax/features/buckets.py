"""Padded sizes: few, so that few programs are compiled."""

STEP_BUCKETS = (16, 24, 32, 40, 48, 64, 96, 128, 256, 512, 1024, 2048, 4096)
SLOT_BUCKETS = (8, 16, 32, 64, 128)


def bucket(size: int, buckets: tuple[int, ...]) -> int:
    """Returns the smallest bucket that holds `size`.

    Raises:
        ValueError: No bucket is large enough.
    """
    for candidate in buckets:
        if size <= candidate:
            return candidate
    raise ValueError(f"{size} exceeds the largest padded size, {buckets[-1]}")
