"""What a client asks about the server itself."""
