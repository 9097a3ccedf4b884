"""The grouped expert op: gather rows, SwiGLU per expert, weigh, add up. The only room that knows of devices' abilities."""
