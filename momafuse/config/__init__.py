"""Typed configuration: frozen dataclasses (schema), the Hydra composition (compose) and the errors that users see."""
