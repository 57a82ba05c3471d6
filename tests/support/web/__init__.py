"""Services that a test moves by hand, and a real server in front of them."""
