"""What a user would pick instead, beside ours: N due at one instant, until each has run a no-op."""
