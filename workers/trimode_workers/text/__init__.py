"""Text on one side, token ids on the other: chat template, tokenizer, incremental decoding, stop strings.

Belongs here: what needs a tokenizer or strings. No HTTP, no engine, no torch.
"""
