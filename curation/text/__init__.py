"""What a text encoder makes of captions."""
