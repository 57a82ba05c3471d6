"""Every backend obeys its port, and official clients accept the server and its fakes."""
