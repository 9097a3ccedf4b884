"""A page on which a trained run answers, and shows which expert took each token. Wants the extra `demo` (gradio)."""
