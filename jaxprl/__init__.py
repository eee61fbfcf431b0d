"""LLM-guided search for programmatic reinforcement-learning policies, with worlds and programs as arrays."""
