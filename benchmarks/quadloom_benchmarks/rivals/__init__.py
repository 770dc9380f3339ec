"""What a user would pick instead of a member, each made the way its own documentation makes it."""
