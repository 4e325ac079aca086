"""Verify lengths by the draft's own confidence: recorded drafts, and what choosing by them would give."""
