"""Benchmarks: tuners, models and throughput compared with their rivals."""
