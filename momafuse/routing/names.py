"""Names of groups that are no modality's, and what stands in the place of an expert's number. Apart from plan.py, so that
configs are checked without torch."""

ALL = "all"  # the group of experts that serves every modality
SHARED = "shared"  # the group that every row goes through, unrouted, beside the experts of its own group

NONE = -1  # no expert took the row
PASSED = -2  # the layer is one of a mixture of depths and passed the row by
