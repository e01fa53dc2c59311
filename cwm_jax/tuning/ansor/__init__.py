"""The parts of tuning that are specific to Ansor."""
