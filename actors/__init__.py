"""The six actors as plain classes, and one file that puts them on Ray."""
