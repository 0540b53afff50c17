"""Output-informed sparsification: significance, masks, schedules and reports."""
