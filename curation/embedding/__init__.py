"""Vectors of clips, and how well texts fit them."""
