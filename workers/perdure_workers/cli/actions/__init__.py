"""What the commands do. Nothing here is imported before its command runs."""
