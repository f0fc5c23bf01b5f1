"""Which clips show the same as others."""
