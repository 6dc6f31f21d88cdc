"""What happens, told to others: control planes on each broker."""
