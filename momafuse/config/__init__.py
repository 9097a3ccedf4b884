"""Typed configuration: frozen dataclasses (schema) and the Hydra composition (compose) ."""
