"""The clips nearest to a text or to a clip."""
