"""The decoder and its parts: single-device code that knows neither data files nor devices nor parallelism."""
