"""The CPU path: packed weights and paged attention in C, built on the spot. Without a C compiler torch does it."""
