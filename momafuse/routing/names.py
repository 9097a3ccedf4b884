"""Names of groups that are no modality's. Apart from plan.py, so that configs are checked without torch."""

ALL = "all"  # the group of experts that serves every modality
SHARED = "shared"  # the group that every row goes through, unrouted, beside the experts of its own group
