"""Behind Update Model: fine-tuning on annotated cases, and the gate that only what is better passes."""
