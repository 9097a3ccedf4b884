"""Who computes what: plans, the routers that make them, and their statistics. Knows nothing of experts."""
